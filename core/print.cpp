// Tensors as text, the way NumPy prints arrays: aligned columns, just enough digits, an ellipsis in large ones.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <ostream>
#include <string_view>

#include "weft/core/tensor.h"

namespace weft {
namespace {

constexpr int64_t largest_printed = 1000;  // elements; beyond, only the ends of each axis are shown
constexpr int64_t edge_items = 3;
constexpr size_t line_width = 100;
constexpr int most_digits = 8;  // behind the point

// Numbers to text and back with <charconv>, which no locale changes.
std::string to_chars_text(double x, std::chars_format style, int digits) {
  std::array<char, 400> text{};
  const auto end = digits < 0 ? std::to_chars(text.data(), text.data() + text.size(), x, style)
                              : std::to_chars(text.data(), text.data() + text.size(), x, style, digits);
  return {text.data(), end.ptr};
}
double parsed(std::string_view text) {
  double x = 0;
  std::from_chars(text.data(), text.data() + text.size(), x);
  return x;
}

// The number with the fewest digits that is still read back as `x` in its own type: 0.1 for the float nearest to it.
double shortest_decimal(double x) { return x; }
double shortest_decimal(float x) {
  std::array<char, 64> text{};
  return parsed({text.data(), std::to_chars(text.data(), text.data() + text.size(), x).ptr});
}
template <class Half>
double shortest_decimal(Half x) {
  const float value = static_cast<float>(x);
  for (int digits = 0; digits < most_digits; ++digits) {
    const double candidate = parsed(to_chars_text(static_cast<double>(value), std::chars_format::scientific, digits));
    if (Half(candidate) == x) return candidate;
  }
  return static_cast<double>(value);
}

// Digits behind the point in the shortest text of x, at most most_digits.
int digits_behind_point(double x, std::chars_format style) {
  std::string text = to_chars_text(x, style, -1);
  text = text.substr(0, text.find('e'));
  const size_t point = text.find('.');
  if (point == std::string::npos) return 0;
  if (static_cast<int>(text.size() - point - 1) <= most_digits) return static_cast<int>(text.size() - point - 1);
  text = to_chars_text(x, style, most_digits);  // rounding may leave zeros at the end
  text = text.substr(0, text.find('e'));
  return static_cast<int>(text.find_last_not_of('0') - text.find('.'));
}

// A column of floating point numbers: all fixed or all scientific, points below each other.
std::vector<std::string> format_floats(const std::vector<double>& values) {
  double largest = 0, smallest = INFINITY;
  for (double x : values) {
    if (!std::isfinite(x) || x == 0) continue;
    largest = std::max(largest, std::fabs(x));
    smallest = std::min(smallest, std::fabs(x));
  }
  const bool scientific = largest > 0 && (largest >= 1e8 || smallest < 1e-4 || largest / smallest > 1000);
  const auto style = scientific ? std::chars_format::scientific : std::chars_format::fixed;
  int digits = 0;
  for (double x : values) {
    if (std::isfinite(x)) digits = std::max(digits, digits_behind_point(x, style));
  }
  std::vector<std::string> texts;
  for (double x : values) {
    if (!std::isfinite(x)) {
      texts.push_back(std::isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
      continue;
    }
    std::string text = to_chars_text(x, style, digits);
    if (digits == 0) text.insert(std::min(text.find('e'), text.size()), 1, '.');
    if (!scientific && digits > 0) {  // zeros at the end are spaces: 1.25 above 1.
      const size_t last = text.find_last_not_of('0');
      std::fill(text.begin() + static_cast<std::ptrdiff_t>(last) + 1, text.end(), ' ');
    }
    texts.push_back(text);
  }
  return texts;
}

// Visits the elements that are shown, in order: each axis whole, or its two ends.
template <class Visit>
void for_each_shown(const Shape& shape, bool summarize, int axis, int64_t offset, const Visit& visit) {
  if (axis == shape.rank()) return visit(offset);
  const int64_t size = shape[axis];
  for (int64_t i = 0; i < size; ++i) {
    if (summarize && size > 2 * edge_items && i == edge_items) i = size - edge_items;
    for_each_shown(shape, summarize, axis + 1, offset * size + i, visit);
  }
}

std::vector<std::string> shown_elements(const Tensor& x, bool summarize) {
  return dispatch_all(x.dtype(), [&]<class T>() {
    std::vector<std::string> texts;
    std::vector<double> numbers;
    const T* data = x.data<T>();
    for_each_shown(x.shape(), summarize, 0, 0, [&](int64_t i) {
      if constexpr (std::is_same_v<T, bool>) {
        texts.emplace_back(data[i] ? "true" : "false");
      } else if constexpr (std::is_same_v<T, int64_t>) {
        texts.push_back(std::to_string(data[i]));
      } else {
        numbers.push_back(shortest_decimal(data[i]));
      }
    });
    return is_float(x.dtype()) ? format_floats(numbers) : texts;
  });
}

// Puts the texts into brackets, innermost axis side by side, one blank line more for every outer axis.
class Layout {
 public:
  Layout(const Shape& shape, bool summarize, std::vector<std::string> texts)
      : shape_(shape), summarize_(summarize), texts_(std::move(texts)), next_(texts_.begin()) {
    size_t width = 0;
    for (const std::string& text : texts_) width = std::max(width, text.size());
    if (shape.rank() == 0) return;
    for (std::string& text : texts_) text.insert(0, width - text.size(), ' ');
  }

  std::string text(int axis = 0) {
    if (axis == shape_.rank()) return *next_++;
    const bool innermost = axis == shape_.rank() - 1;
    const int64_t size = shape_[axis];
    const std::string indent(static_cast<size_t>(axis) + 1, ' ');
    const std::string break_line = std::string(static_cast<size_t>(std::max(1, shape_.rank() - 1 - axis)), '\n') + indent;
    std::string result = "[";
    size_t line = indent.size();  // characters in the line so far, of the innermost axis
    for (int64_t i = 0; i < size; ++i) {
      const bool gap = summarize_ && size > 2 * edge_items && i == edge_items;
      if (gap) i = size - edge_items;
      for (const std::string& part : gap ? std::vector<std::string>{"...", text(axis + 1)} : std::vector<std::string>{text(axis + 1)}) {
        if (result.size() > 1) {
          const bool wraps = innermost && line + 1 + part.size() > line_width;
          result += innermost && !wraps ? " " : break_line;
          line = wraps ? indent.size() : line + 1;
        }
        result += part;
        line += part.size();
      }
    }
    return result + "]";
  }

 private:
  const Shape& shape_;
  bool summarize_;
  std::vector<std::string> texts_;
  std::vector<std::string>::iterator next_;
};

}  // namespace

std::string to_string(const Tensor& x) {
  if (!x.defined()) return describe(x);
  if (x.numel() == 0) return "[] " + describe(x);
  const bool summarize = x.numel() > largest_printed;
  return Layout(x.shape(), summarize, shown_elements(to_host(x), summarize)).text() + " " + describe(x);
}

std::ostream& operator<<(std::ostream& out, const Tensor& x) { return out << to_string(x); }

}  // namespace weft
