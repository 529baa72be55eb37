#include "weft/autograd/einsum.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <string>

#include "weft/autograd/ops.h"

namespace weft {
namespace {

// An index of the equation: a letter, or an axis of the ellipsis counted from its end (broadcast_base + 0 is the last).
using Label = int;
using Labels = std::vector<Label>;
constexpr Label broadcast_base = 256;
bool broadcasts(Label label) { return label >= broadcast_base; }

bool contains(const Labels& labels, Label label) { return std::find(labels.begin(), labels.end(), label) != labels.end(); }

std::string text_of(const Labels& labels) {
  std::string text;
  for (Label label : labels) text += broadcasts(label) ? "." : std::string(1, static_cast<char>(label));
  return text;
}

// One side of the equation between commas: letters, and where the ellipsis stands (-1: nowhere).
struct Term {
  Labels letters;
  int ellipsis = -1;
};

[[noreturn]] void fail_at(std::string_view equation, size_t position, const std::string& problem) {
  fail("einsum: {}\n  {}\n  {}^", problem, equation, std::string(position, ' '));
}

// Reads letters and at most one ellipsis from [begin, end).
Term parse_term(std::string_view equation, size_t begin, size_t end) {
  Term term;
  for (size_t i = begin; i < end; ++i) {
    const char c = equation[i];
    if (c == ' ') continue;
    if (c == '.') {
      if (equation.substr(i, 3) != "..." || i + 3 > end) fail_at(equation, i, "expected the three dots of an ellipsis");
      if (term.ellipsis >= 0) fail_at(equation, i, "an operand may hold one ellipsis only");
      term.ellipsis = static_cast<int>(term.letters.size());
      i += 2;
    } else if (std::isalpha(static_cast<unsigned char>(c)) != 0) {
      term.letters.push_back(c);
    } else {
      fail_at(equation, i, std::string("expected a letter, \"...\", \",\" or \"->\", got \"") + c + "\"");
    }
  }
  return term;
}

struct Equation {
  std::vector<Term> inputs;
  Term output;
  bool explicit_output = false;
  size_t output_begin = 0;
};

Equation parse(std::string_view text) {
  Equation equation;
  const size_t arrow = text.find("->");
  equation.explicit_output = arrow != std::string_view::npos;
  const size_t end = equation.explicit_output ? arrow : text.size();
  for (size_t begin = 0;;) {
    const size_t comma = std::min(text.find(',', begin), end);
    equation.inputs.push_back(parse_term(text, begin, comma));
    if (comma == end) break;
    begin = comma + 1;
  }
  if (equation.explicit_output) {
    equation.output_begin = arrow + 2;
    if (text.find(',', arrow) != std::string_view::npos) fail_at(text, text.find(',', arrow), "the output is one term, without a comma");
    equation.output = parse_term(text, arrow + 2, text.size());
  }
  return equation;
}

// The labels of a tensor of `rank` axes under `term`.
Labels labels_of(const Term& term, int rank) {
  Labels labels = term.letters;
  if (term.ellipsis >= 0) {
    const int count = rank - static_cast<int>(term.letters.size());
    Labels dots;
    for (int i = count - 1; i >= 0; --i) dots.push_back(broadcast_base + i);
    labels.insert(labels.begin() + term.ellipsis, dots.begin(), dots.end());
  }
  return labels;
}

// A tensor on its way through the contraction, with a label for each axis.
struct Factor {
  Tensor x;
  Labels labels;

  int axis_of(Label label) const { return static_cast<int>(std::find(labels.begin(), labels.end(), label) - labels.begin()); }
  int64_t size_of(Label label) const { return x.size(axis_of(label)); }
};

Factor arranged(const Factor& operand, const Labels& order, const Location& at) {
  std::vector<int> axes;
  for (Label label : order) axes.push_back(operand.axis_of(label));
  return {permute(operand.x, axes, at), order};
}

// An index that stands twice becomes one: its two axes go last, become one of n * n, of which every (n + 1)-th element is the diagonal.
Factor with_diagonals(Factor operand, const Location& at) {
  for (size_t i = 0; i < operand.labels.size(); ++i) {
    const Label label = operand.labels[i];
    const auto second = std::find(operand.labels.begin() + static_cast<std::ptrdiff_t>(i) + 1, operand.labels.end(), label);
    if (second == operand.labels.end()) continue;
    const int first_axis = static_cast<int>(i), second_axis = static_cast<int>(second - operand.labels.begin());
    std::vector<int> axes;
    Labels rest;
    for (int axis = 0; axis < operand.x.rank(); ++axis) {
      if (axis == first_axis || axis == second_axis) continue;
      axes.push_back(axis);
      rest.push_back(operand.labels[static_cast<size_t>(axis)]);
    }
    axes.insert(axes.end(), {first_axis, second_axis});
    rest.push_back(label);
    const int64_t n = operand.x.size(first_axis);
    const Tensor square = flatten(permute(operand.x, axes, at), -2, -1, at);
    operand = {slice(square, -1, 0, n * n, n + 1, at), rest};
    i = static_cast<size_t>(-1);  // start again: positions have changed
  }
  return operand;
}

Factor summed_to(const Factor& operand, const Labels& keep, const Location& at) {
  std::vector<int> axes;
  Labels rest;
  for (size_t i = 0; i < operand.labels.size(); ++i) {
    if (contains(keep, operand.labels[i])) {
      rest.push_back(operand.labels[i]);
    } else {
      axes.push_back(static_cast<int>(i));
    }
  }
  return axes.empty() ? operand : Factor{sum(operand.x, axes, false, at), rest};
}

Labels joined(const Labels& a, const Labels& b, const Labels& c) {
  Labels all = a;
  all.insert(all.end(), b.begin(), b.end());
  all.insert(all.end(), c.begin(), c.end());
  return all;
}

int64_t product_of(const Factor& operand, const Labels& labels) {
  int64_t product = 1;
  for (Label label : labels) product *= operand.size_of(label);
  return product;
}

// `operand` as [batch.., outer, inner]: the matrices of a batched product. If its axes already stand as [batch.., inner, outer], nothing
// is copied and `transposed` says so.
Tensor as_matrices(const Factor& operand, const Labels& batch, const Labels& outer, const Labels& inner, bool& transposed,
                   const Location& at) {
  transposed = operand.labels == joined(batch, inner, outer) && operand.labels != joined(batch, outer, inner);
  const Factor ready = transposed ? operand : arranged(operand, joined(batch, outer, inner), at);
  std::vector<int64_t> sizes;
  for (Label label : batch) sizes.push_back(operand.size_of(label));
  sizes.push_back(product_of(operand, transposed ? inner : outer));
  sizes.push_back(product_of(operand, transposed ? outer : inner));
  return reshape(ready.x, sizes, at);
}

// The product of two operands, keeping the indices in `keep`.
Factor contracted(Factor a, Factor b, const Labels& keep, const Location& at) {
  Labels needed_a = keep, needed_b = keep;
  needed_a.insert(needed_a.end(), b.labels.begin(), b.labels.end());
  needed_b.insert(needed_b.end(), a.labels.begin(), a.labels.end());
  a = summed_to(a, needed_a, at);
  b = summed_to(b, needed_b, at);

  Labels batch, only_a, only_b, inner;
  for (Label label : a.labels) {
    if (!contains(b.labels, label)) {
      only_a.push_back(label);
    } else if (contains(keep, label)) {
      batch.push_back(label);
    } else {
      inner.push_back(label);
    }
  }
  for (Label label : b.labels) {
    if (!contains(a.labels, label)) only_b.push_back(label);
  }
  std::vector<int64_t> sizes;
  for (Label label : batch) sizes.push_back(std::max(a.size_of(label), b.size_of(label)));
  for (Label label : batch) {  // an empty axis beats a stretched one
    if (a.size_of(label) == 0 || b.size_of(label) == 0)
      sizes[static_cast<size_t>(std::find(batch.begin(), batch.end(), label) - batch.begin())] = 0;
  }
  for (Label label : only_a) sizes.push_back(a.size_of(label));
  for (Label label : only_b) sizes.push_back(b.size_of(label));

  for (Factor* side : {&a, &b}) {  // a summed ellipsis axis of size 1 stretches to its partner's size first
    const Factor& other = side == &a ? b : a;
    for (Label label : inner) {
      if (side->size_of(label) != other.size_of(label) && side->size_of(label) == 1) {
        Shape shape = side->x.shape();
        shape[side->axis_of(label)] = other.size_of(label);
        side->x = broadcast_to(side->x, shape, at);
      }
    }
  }
  bool transposed_a = false, transposed_b = false;
  Tensor y;
  const Tensor left = as_matrices(a, batch, only_a, inner, transposed_a, at);
  if (inner.empty()) {  // no sum: a product of columns and rows
    const Tensor right = as_matrices(b, batch, inner, only_b, transposed_b, at);
    y = mul(left, right, at);
  } else {
    const Tensor right = as_matrices(b, batch, inner, only_b, transposed_b, at);
    y = matmul(left, right, {.transpose_a = transposed_a, .transpose_b = transposed_b}, at);
  }
  return {reshape(y, sizes, at), joined(batch, only_a, only_b)};
}

// Checks sizes and ranks; returns the operands under their labels.
std::vector<Factor> labelled(std::string_view text, const Equation& equation, const std::vector<Tensor>& operands) {
  WEFT_CHECK(equation.inputs.size() == operands.size(), "einsum: \"{}\" names {} operands, got {}", text, equation.inputs.size(),
             operands.size());
  std::vector<Factor> result;
  std::map<Label, int64_t> sizes;
  for (size_t i = 0; i < operands.size(); ++i) {
    const Term& term = equation.inputs[i];
    const Tensor& x = operands[i];
    const int letters = static_cast<int>(term.letters.size());
    WEFT_CHECK(term.ellipsis >= 0 ? x.rank() >= letters : x.rank() == letters,
               "einsum: operand {} of \"{}\" has {} indices, but the tensor is {}", i, text, letters, x);
    const Labels labels = labels_of(term, x.rank());
    for (size_t axis = 0; axis < labels.size(); ++axis) {
      const int64_t size = x.size(static_cast<int>(axis));
      auto [known, fresh] = sizes.try_emplace(labels[axis], size);
      const bool stretches = broadcasts(labels[axis]) && (known->second == 1 || size == 1);
      WEFT_CHECK(fresh || known->second == size || stretches, "einsum: index {} of \"{}\" has size {} and, in operand {} ({}), size {}",
                 text_of({labels[axis]}), text, known->second, i, x, size);
      if (size != 1) known->second = size;
    }
    result.push_back({x, labels});
  }
  return result;
}

Labels output_labels(std::string_view text, const Equation& equation, const std::vector<Factor>& operands) {
  int dots = 0;
  std::map<Label, int> uses;
  for (const Factor& operand : operands) {
    int own_dots = 0;
    for (Label label : operand.labels) {
      ++uses[label];
      own_dots += broadcasts(label) ? 1 : 0;
    }
    dots = std::max(dots, own_dots);
  }
  if (!equation.explicit_output) {
    Term implicit{.letters = {}, .ellipsis = 0};
    for (const auto& [label, count] : uses) {
      if (!broadcasts(label) && count == 1) implicit.letters.push_back(label);
    }
    return labels_of(implicit, static_cast<int>(implicit.letters.size()) + dots);
  }
  Labels seen;
  for (Label label : equation.output.letters) {
    const size_t position = text.find(static_cast<char>(label), equation.output_begin);
    if (!uses.contains(label)) fail_at(text, position, std::string("output index ") + static_cast<char>(label) + " stands in no operand");
    if (contains(seen, label)) fail_at(text, position, std::string("output index ") + static_cast<char>(label) + " stands twice");
    seen.push_back(label);
  }
  return labels_of(equation.output, static_cast<int>(equation.output.letters.size()) + (equation.output.ellipsis >= 0 ? dots : 0));
}

}  // namespace

Tensor einsum(std::string_view text, const std::vector<Tensor>& tensors, Location at) {
  const Equation equation = parse(text);
  std::vector<Factor> operands = labelled(text, equation, tensors);
  const Labels output = output_labels(text, equation, operands);
  for (Factor& operand : operands) operand = with_diagonals(std::move(operand), at);

  Factor result = operands[0];
  for (size_t i = 1; i < operands.size(); ++i) {
    Labels keep = output;
    for (size_t later = i + 1; later < operands.size(); ++later) {
      keep.insert(keep.end(), operands[later].labels.begin(), operands[later].labels.end());
    }
    result = contracted(std::move(result), operands[i], keep, at);
  }
  return arranged(summed_to(result, output, at), output, at).x;
}

}  // namespace weft
