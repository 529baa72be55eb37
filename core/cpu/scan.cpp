// Running sums, and the place of the largest element.
#include "weft/core/kernels.h"

#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/core/cpu/scan.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "weft/core/cpu/axis.h"
#include "weft/core/cpu/loops-inl.h"
#include "weft/core/cpu/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t scan_grain = 1 << 14;  // elements that are worth a thread
constexpr int64_t scan_piece = 1 << 12;  // a long line is scanned in pieces of this size, whose sums are known before
constexpr int64_t scan_lines = 8;        // lines scanned side by side: one alone waits for each addition
constexpr int64_t scan_columns = 512;

// ---- argmax ---------------------------------------------------------------------------------------------------------------------------

template <class T>
int64_t argmax_row(const T* x, int64_t size) {
  using S = Simd<T>;
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  const T largest = max_row<T>(size, [&](int64_t i, int64_t n) HWY_ATTR { return S::load_n(x + i, n, lowest); });
  const bool find_nan = largest != largest;
  for (int64_t i = 0; i < size; i += S::lanes()) {
    const S v = S::load_n(x + i, size - i);
    const auto found = find_nan ? is_nan(v) : v == largest;
    const intptr_t lane = hn::FindFirstTrue(typename S::D(), found.m);
    if (lane >= 0) return i + lane;
  }
  return 0;
}

// Index of the first largest of `rows` rows, for each of `width` columns.
template <class T>
void argmax_columns(int64_t* y, const T* x, int64_t rows, int64_t stride, int64_t width) {
  T best[scan_columns];
  std::copy_n(x, width, best);
  std::fill_n(y, width, 0);
  for (int64_t r = 1; r < rows; ++r) {
    const T* row = x + r * stride;
    for (int64_t i = 0; i < width; ++i) {
      const bool better = row[i] > best[i] || (row[i] != row[i] && best[i] == best[i]);
      best[i] = better ? row[i] : best[i];
      y[i] = better ? r : y[i];
    }
  }
}

void argmax(Tensor& y, const Tensor& x, int axis) {
  dispatch_float(x.dtype(), "argmax", [&]<class T>() HWY_ATTR {
    const AxisView v = view_along(x.shape(), axis);
    if (x.numel() == 0) return;
    int64_t* ys = y.data<int64_t>();
    const T* xs = x.data<T>();
    const int64_t tiles = (v.inner + scan_columns - 1) / scan_columns, width = std::min(v.inner, scan_columns);
    parallel_for(v.outer * tiles, scan_grain / (v.length * width) + 1, [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t o = item / tiles, column = item % tiles * scan_columns;
        const T* from = xs + o * v.length * v.inner + column;
        int64_t* to = ys + o * v.inner + column;
        if (v.inner == 1) {
          *to = argmax_row(from, v.length);
        } else {
          argmax_columns(to, from, v.length, v.inner, std::min(width, v.inner - column));
        }
      }
    });
  });
}

// ---- cumsum: in double, so that long float32 lines do not drift
// ---------------------------------------------------------------------------

// `count` lines of `size` elements, one behind the other, each starting from its carry. The last one may be shorter.
template <class T>
void scan_together(T* y, const T* x, int64_t count, int64_t size, int64_t last_size, const double* carry, bool reverse) {
  double total[scan_lines] = {};
  std::copy_n(carry, count, total);
  const int64_t step = reverse ? -1 : 1;
  int64_t at[scan_lines];
  for (int64_t line = 0; line < count; ++line) at[line] = line * size + (reverse ? (line + 1 == count ? last_size : size) - 1 : 0);
  const int64_t together = count == scan_lines ? last_size : 0;
  for (int64_t i = 0; i < together; ++i) {
    for (int64_t line = 0; line < scan_lines; ++line) {
      const int64_t j = at[line] + i * step;
      y[j] = static_cast<T>(total[line] += static_cast<double>(x[j]));
    }
  }
  for (int64_t line = 0; line < count; ++line) {
    const int64_t end = line + 1 == count ? last_size : size;
    double sum = total[line];
    for (int64_t i = together; i < end; ++i) {
      const int64_t j = at[line] + i * step;
      y[j] = static_cast<T>(sum += static_cast<double>(x[j]));
    }
  }
}

template <class T>
double piece_sum(const T* x, int64_t size) {
  double part[scan_lines] = {};
  int64_t i = 0;
  for (; i + scan_lines <= size; i += scan_lines) {
    for (int64_t k = 0; k < scan_lines; ++k) part[k] += static_cast<double>(x[i + k]);
  }
  for (; i < size; ++i) part[0] += static_cast<double>(x[i]);
  return ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
}

template <class T>
void cumsum_rows(T* y, const T* x, int64_t rows, int64_t length, bool reverse) {
  const int64_t wanted = std::max<int64_t>(1, length / scan_piece);
  const int64_t size = (length + wanted - 1) / wanted, pieces = (length + size - 1) / size;
  const int64_t last_size = length - (pieces - 1) * size;
  const bool cut = pieces > 1;
  std::vector<double> carry(static_cast<size_t>(cut ? rows * pieces : scan_lines));
  if (cut) {
    parallel_for(rows * pieces, scan_grain / size + 1, [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t p = item % pieces;
        carry[static_cast<size_t>(item)] = piece_sum(x + item / pieces * length + p * size, p + 1 == pieces ? last_size : size);
      }
    });
    for (int64_t row = 0; row < rows; ++row) {  // sums become what precedes each piece
      double total = 0;
      for (int64_t p = 0; p < pieces; ++p) {
        total += std::exchange(carry[static_cast<size_t>(row * pieces + (reverse ? pieces - 1 - p : p))], total);
      }
    }
  }
  // The lines are the pieces of each row, or whole rows.
  const int64_t blocks = cut ? rows : 1, lines = cut ? pieces : rows, groups = (lines + scan_lines - 1) / scan_lines;
  parallel_for(blocks * groups, scan_grain / (scan_lines * size) + 1, [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t block = item / groups, first = item % groups * scan_lines, count = std::min(scan_lines, lines - first);
      const int64_t at = block * length + first * size;
      const double* carries = carry.data() + (cut ? block * pieces + first : 0);
      scan_together(y + at, x + at, count, size, first + count == lines ? last_size : size, carries, reverse);
    }
  });
}

template <class T>
void cumsum_columns(T* y, const T* x, AxisView v, bool reverse) {
  const int64_t tiles = (v.inner + scan_columns - 1) / scan_columns, width = std::min(v.inner, scan_columns);
  parallel_for(v.outer * tiles, scan_grain / (v.length * width) + 1, [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t column = item % tiles * scan_columns, columns = std::min(width, v.inner - column);
      double total[scan_columns] = {};
      for (int64_t l = 0; l < v.length; ++l) {
        const int64_t at = (item / tiles * v.length + (reverse ? v.length - 1 - l : l)) * v.inner + column;
        for (int64_t i = 0; i < columns; ++i) y[at + i] = static_cast<T>(total[i] += static_cast<double>(x[at + i]));
      }
    }
  });
}

void cumsum(Tensor& y, const Tensor& x, int axis, bool reverse) {
  dispatch_float(x.dtype(), "cumsum", [&]<class T>() HWY_ATTR {
    const AxisView v = view_along(x.shape(), axis);
    if (x.numel() == 0) return;
    if (v.inner == 1) {
      cumsum_rows(y.data<T>(), x.data<T>(), v.outer, v.length, reverse);
    } else {
      cumsum_columns(y.data<T>(), x.data<T>(), v, reverse);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

HWY_EXPORT(argmax);
HWY_EXPORT(cumsum);

void argmax(Tensor& y, const Tensor& x, int axis) { HWY_DYNAMIC_DISPATCH(argmax)(y, x, axis); }
void cumsum(Tensor& y, const Tensor& x, int axis, bool reverse) { HWY_DYNAMIC_DISPATCH(cumsum)(y, x, axis, reverse); }

}  // namespace weft::cpu
#endif  // HWY_ONCE
