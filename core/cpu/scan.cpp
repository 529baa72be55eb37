// Running sums, and the place of the largest element.
#include "weft/core/kernels.h"

#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/core/cpu/scan.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "weft/core/axis.h"
#include "weft/core/cpu/loops-inl.h"
#include "weft/core/cpu/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t scan_piece = 1 << 14;  // elements of a piece of a long line
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
    const int64_t tiles = ceil_div(v.inner, scan_columns), width = std::min(v.inner, scan_columns);
    parallel_for(v.outer * tiles, grain_for(v.length * width), [&](int64_t begin, int64_t end) HWY_ATTR {
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

// ---- cumsum: in double, so that long float32 lines do not drift ----------------------------------------------------------------------

// Running sums within one vector: log2(lanes) times, every lane takes in the lane 1, 2, 4, ... before it.
class VectorScan {
 public:
  using S = Simd<double>;
  using D = S::D;
  static constexpr int64_t lanes = S::lanes();

  VectorScan() {
    for (int64_t k = 0; k < steps; ++k) {
      for (int64_t i = 0; i < lanes; ++i) from_[k][i] = std::max<int64_t>(0, i - (int64_t{1} << k));
    }
    std::fill_n(last_, lanes, lanes - 1);
  }
  HWY_INLINE S operator()(S v) const {
    for (int64_t k = 0; k < steps; ++k) {
      const S before = hn::TableLookupLanes(v.v, hn::SetTableIndices(D(), from_[k]));
      v += S(hn::IfThenZeroElse(S::first(int64_t{1} << k).m, before.v));
    }
    return v;
  }
  /// The last lane in all lanes.
  HWY_INLINE S last(S v) const { return hn::TableLookupLanes(v.v, hn::SetTableIndices(D(), last_)); }

 private:
  static constexpr int64_t steps = lanes >= 8 ? 3 : lanes >= 4 ? 2 : lanes >= 2 ? 1 : 0;
  static_assert(lanes <= 8);
  int64_t from_[3][lanes], last_[lanes];
};

// y = carry + running sums of x, from the end when `reverse`.
template <class T>
void scan_line(T* y, const T* x, int64_t size, double carry, bool reverse) {
  using S = Simd<double>;
  constexpr int64_t lanes = S::lanes();
  const VectorScan scan;
  S total = carry;
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    const int64_t at = reverse ? size - i - lanes : i;
    S v = load_double(x + at);
    if (reverse) v = hn::Reverse(S::D(), v.v);
    v = scan(v) + total;
    total = scan.last(v);
    if (reverse) v = hn::Reverse(S::D(), v.v);
    store_double(v, y + at);
  }
  double rest = hn::GetLane(total.v);
  for (; i < size; ++i) {
    const int64_t at = reverse ? size - 1 - i : i;
    y[at] = static_cast<T>(rest += static_cast<double>(x[at]));
  }
}

template <class T>
double line_sum(const T* x, int64_t size) {
  using S = Simd<double>;
  S a = 0, b = 0;
  int64_t i = 0;
  for (; i + 2 * S::lanes() <= size; i += 2 * S::lanes()) {
    a += load_double(x + i);
    b += load_double(x + i + S::lanes());
  }
  double total = sum(a + b);
  for (; i < size; ++i) total += static_cast<double>(x[i]);
  return total;
}

// Long rows are cut into pieces, which start from the sum of those before them.
template <class T>
void cumsum_rows(T* y, const T* x, int64_t rows, int64_t length, bool reverse) {
  const int64_t wanted = std::max<int64_t>(1, length / scan_piece);
  const int64_t size = ceil_div(length, wanted), pieces = ceil_div(length, size);
  const auto size_of = [&](int64_t p) { return std::min(size, length - p * size); };
  std::vector<double> carry(static_cast<size_t>(pieces > 1 ? rows * pieces : 0));
  if (pieces > 1) {
    parallel_for(rows * pieces, grain_for(size), [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t p = item % pieces;
        carry[static_cast<size_t>(item)] = line_sum(x + item / pieces * length + p * size, size_of(p));
      }
    });
    for (int64_t row = 0; row < rows; ++row) {
      double total = 0;
      for (int64_t p = 0; p < pieces; ++p) {
        total += std::exchange(carry[static_cast<size_t>(row * pieces + (reverse ? pieces - 1 - p : p))], total);
      }
    }
  }
  parallel_for(rows * pieces, grain_for(size), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t p = item % pieces, at = item / pieces * length + p * size;
      scan_line(y + at, x + at, size_of(p), pieces > 1 ? carry[static_cast<size_t>(item)] : 0, reverse);
    }
  });
}

template <class T>
void cumsum_columns(T* y, const T* x, AxisView v, bool reverse) {
  const int64_t tiles = ceil_div(v.inner, scan_columns), width = std::min(v.inner, scan_columns);
  parallel_for(v.outer * tiles, grain_for(v.length * width), [&](int64_t begin, int64_t end) HWY_ATTR {
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
