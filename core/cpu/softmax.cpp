// Softmax and log-softmax along any axis. A row (or column) of -infinities, or one that the mask empties, gives zeros (-infinities in
// the logarithm) and has zero gradients.
#include "weft/core/kernels.h"

#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/core/cpu/softmax.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>
#include <utility>

#include "weft/core/axis.h"
#include "weft/core/cpu/loops-inl.h"
#include "weft/core/cpu/mask_rows.h"
#include "weft/core/cpu/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

template <class T>
constexpr T negative_infinity = -std::numeric_limits<T>::infinity();

// ---- rows: x [outer, length] ---------------------------------------------------------------------------------------------------------

// x, or -infinity where the mask is false.
template <bool masked, class T>
HWY_INLINE Simd<T> visible(const T* x, const bool* mask, int64_t i, int64_t n) {
  const Simd<T> v = Simd<T>::load_n(x + i, n, negative_infinity<T>);
  if constexpr (masked) return select(load_mask<T>(mask + i, n), v, negative_infinity<T>);
  return v;
}

template <bool masked, class T>
void softmax_row(T* y, const T* x, const bool* mask, int64_t size) {
  using S = Simd<T>;
  const T m = max_row<T>(size, [&](int64_t i, int64_t n) HWY_ATTR { return visible<masked>(x, mask, i, n); });
  if (m == negative_infinity<T>) return static_cast<void>(std::fill_n(y, size, T(0)));
  const T total = sum_row<T>(size, [&](int64_t i, int64_t n) HWY_ATTR {
    hwy::Prefetch(x + size + i);  // the next row comes in while this one is in the exponential
    const S e = exp_nonpositive(visible<masked>(x, mask, i, n) - m);
    e.store_n(y + i, n);
    return e;
  });
  const S scale = 1 / total;
  each_vector<T>(size, [&](int64_t i, int64_t n) HWY_ATTR { (S::load_n(y + i, n) * scale).store_n(y + i, n); });
}

template <bool masked, class T>
void log_softmax_row(T* y, const T* x, const bool* mask, int64_t size) {
  const T m = max_row<T>(size, [&](int64_t i, int64_t n) HWY_ATTR { return visible<masked>(x, mask, i, n); });
  if (m == negative_infinity<T>) return static_cast<void>(std::fill_n(y, size, m));
  const T total = sum_row<T>(size, [&](int64_t i, int64_t n) HWY_ATTR {
    hwy::Prefetch(x + size + i);
    return exp_nonpositive(visible<masked>(x, mask, i, n) - m);
  });
  const T log_total = std::log(total);
  each_vector<T>(size, [&](int64_t i, int64_t n) HWY_ATTR { (visible<masked>(x, mask, i, n) - m - log_total).store_n(y + i, n); });
}

// dx = y * (dy - sum(dy * y))
template <class T>
void softmax_row_backward(T* dx, const T* dy, const T* y, int64_t size) {
  using S = Simd<T>;
  const S dot = sum_row<T>(size, [&](int64_t i, int64_t n) HWY_ATTR { return S::load_n(dy + i, n) * S::load_n(y + i, n); });
  each_vector<T>(size, [&](int64_t i, int64_t n) HWY_ATTR { (S::load_n(y + i, n) * (S::load_n(dy + i, n) - dot)).store_n(dx + i, n); });
}

// dx = dy - exp(y) * sum(dy), over the elements that take part
template <class T>
void log_softmax_row_backward(T* dx, const T* dy, const T* y, int64_t size) {
  using S = Simd<T>;
  const S total = sum_row<T>(size, [&](int64_t i, int64_t n) HWY_ATTR {
    return select(S::load_n(y + i, n, negative_infinity<T>) == negative_infinity<T>, S(0), S::load_n(dy + i, n));
  });
  each_vector<T>(size, [&](int64_t i, int64_t n) HWY_ATTR {
    const S v = S::load_n(y + i, n), d = S::load_n(dy + i, n);
    select(v == negative_infinity<T>, S(0), d - exp_nonpositive(v) * total).store_n(dx + i, n);
  });
}

// ---- columns: x [length, width] in rows of `stride`; sums and maxima of every column lie in buffers ----------------------------------

template <class T>
HWY_INLINE Simd<T> visible_column(const T* x, const bool* mask, int64_t at, int64_t n) {
  const Simd<T> v = Simd<T>::load_n(x + at, n);
  return mask == nullptr ? v : select(load_mask<T>(mask + at, n), v, negative_infinity<T>);
}

// `shift` is the maximum of each column (0 if that is -infinity), `total` the sum of exp(x - shift); y keeps exp(x - shift) if given.
template <class T>
void column_sums(T* shift, T* total, T* y, const T* x, const bool* mask, AxisView v, int64_t width) {
  using S = Simd<T>;
  std::fill_n(shift, width, negative_infinity<T>);
  std::fill_n(total, width, T(0));
  for (int64_t l = 0; l < v.length; ++l) {
    each_vector<T>(width, [&](int64_t i, int64_t n) HWY_ATTR {
      max(S::load_n(shift + i, n), visible_column(x, mask, l * v.inner + i, n)).store_n(shift + i, n);
    });
  }
  for (int64_t i = 0; i < width; ++i) shift[i] = shift[i] == negative_infinity<T> ? 0 : shift[i];
  T part[most_block_columns] = {};  // of the last few rows: fewer roundings on the way of each
  for (int64_t l = 0; l < v.length; ++l) {
    each_vector<T>(width, [&](int64_t i, int64_t n) HWY_ATTR {
      const S e = exp_nonpositive(visible_column(x, mask, l * v.inner + i, n) - S::load_n(shift + i, n));
      if (y != nullptr) e.store_n(y + l * v.inner + i, n);
      (S::load_n(part + i, n) + e).store_n(part + i, n);
    });
    if (l % part_rows != part_rows - 1 && l + 1 < v.length) continue;
    for (int64_t i = 0; i < width; ++i) total[i] += std::exchange(part[i], T(0));
  }
}

template <class T>
void softmax_columns(T* y, const T* x, const bool* mask, AxisView v, int64_t width) {
  using S = Simd<T>;
  T shift[most_block_columns], total[most_block_columns];
  column_sums(shift, total, y, x, mask, v, width);
  for (int64_t i = 0; i < width; ++i) total[i] = total[i] == 0 ? 0 : 1 / total[i];
  for (int64_t l = 0; l < v.length; ++l) {
    T* row = y + l * v.inner;
    each_vector<T>(width, [&](int64_t i, int64_t n) HWY_ATTR { (S::load_n(row + i, n) * S::load_n(total + i, n)).store_n(row + i, n); });
  }
}

template <class T>
void log_softmax_columns(T* y, const T* x, const bool* mask, AxisView v, int64_t width) {
  using S = Simd<T>;
  T shift[most_block_columns], total[most_block_columns];
  column_sums(shift, total, static_cast<T*>(nullptr), x, mask, v, width);
  for (int64_t i = 0; i < width; ++i) total[i] = total[i] == 0 ? 0 : std::log(total[i]);  // x is -infinity where it is 0
  for (int64_t l = 0; l < v.length; ++l) {
    each_vector<T>(width, [&](int64_t i, int64_t n) HWY_ATTR {
      const S a = visible_column(x, mask, l * v.inner + i, n);
      (a - S::load_n(shift + i, n) - S::load_n(total + i, n)).store_n(y + l * v.inner + i, n);
    });
  }
}

template <class T>
void softmax_columns_backward(T* dx, const T* dy, const T* y, AxisView v, int64_t width) {
  using S = Simd<T>;
  T dot[most_block_columns] = {};
  for (int64_t l = 0; l < v.length; ++l) {
    const T *a = dy + l * v.inner, *b = y + l * v.inner;
    each_vector<T>(width, [&](int64_t i, int64_t n)
                              HWY_ATTR { mul_add(S::load_n(a + i, n), S::load_n(b + i, n), S::load_n(dot + i, n)).store_n(dot + i, n); });
  }
  for (int64_t l = 0; l < v.length; ++l) {
    const T *a = dy + l * v.inner, *b = y + l * v.inner;
    each_vector<T>(width, [&](int64_t i, int64_t n) HWY_ATTR {
      (S::load_n(b + i, n) * (S::load_n(a + i, n) - S::load_n(dot + i, n))).store_n(dx + l * v.inner + i, n);
    });
  }
}

template <class T>
void log_softmax_columns_backward(T* dx, const T* dy, const T* y, AxisView v, int64_t width) {
  using S = Simd<T>;
  T total[most_block_columns] = {};
  for (int64_t l = 0; l < v.length; ++l) {
    const T *a = dy + l * v.inner, *b = y + l * v.inner;
    each_vector<T>(width, [&](int64_t i, int64_t n) HWY_ATTR {
      const S d = select(S::load_n(b + i, n) == negative_infinity<T>, S(0), S::load_n(a + i, n));
      (S::load_n(total + i, n) + d).store_n(total + i, n);
    });
  }
  for (int64_t l = 0; l < v.length; ++l) {
    const T *a = dy + l * v.inner, *b = y + l * v.inner;
    each_vector<T>(width, [&](int64_t i, int64_t n) HWY_ATTR {
      const S result = S::load_n(b + i, n);
      const S d = S::load_n(a + i, n) - exp_nonpositive(result) * S::load_n(total + i, n);
      select(result == negative_infinity<T>, S(0), d).store_n(dx + l * v.inner + i, n);
    });
  }
}

// ---- the outline of all four ---------------------------------------------------------------------------------------------------------

// Rows shorter than a vector are turned around and taken as columns: every lane works on a row of its own.
template <class T, class Columns>
void short_rows_forward(T* y, const T* x, AxisView v, Columns columns) {
  const int64_t blocks = ceil_div(v.outer, short_rows);
  parallel_for(blocks, grain_for(short_rows * v.length, heavy_grain), [&](int64_t begin, int64_t end) HWY_ATTR {
    T from[short_size * short_rows], to[short_size * short_rows];
    for (int64_t block = begin; block < end; ++block) {
      const int64_t count = std::min(short_rows, v.outer - block * short_rows), at = block * short_rows * v.length;
      transpose(from, x + at, count, v.length);
      columns(to, from, nullptr, {1, v.length, count}, count);
      transpose(y + at, to, v.length, count);
    }
  });
}

// `row`, `masked_row` and `columns` compute y; `empty_value` fills a row without any visible element.
template <class T, class Row, class MaskedRow, class Columns>
void forward(Tensor& y, const Tensor& x, const Tensor& mask, int axis, T empty_value, Row row, MaskedRow masked_row, Columns columns) {
  const AxisView v = view_along(x.shape(), axis);
  if (x.numel() == 0) return;
  T* ys = y.data<T>();
  const T* xs = x.data<T>();
  const bool is_short = v.inner == 1 && v.length < std::min(short_size, Simd<T>::lanes()) && v.outer >= short_rows;
  if (is_short && !mask.defined()) return short_rows_forward(ys, xs, v, columns);
  Tensor full_mask = mask;
  if (v.inner > 1 && mask.defined() && !(mask.shape() == x.shape())) {
    full_mask = empty(x.shape(), {.dtype = DType::boolean, .device = Device::cpu()});
    broadcast_to(full_mask, mask);
  }
  const MaskRows mask_rows(mask, x.shape());
  along_axis(
      v,
      [&](int64_t r) HWY_ATTR {
        T* to = ys + r * v.length;
        const T* from = xs + r * v.length;
        if (!mask_rows.defined()) return row(to, from, nullptr, v.length);
        const bool* takes_part = mask_rows.row(r);
        if (mask_rows.per_element()) return masked_row(to, from, takes_part, v.length);
        if (*takes_part) return row(to, from, nullptr, v.length);
        std::fill_n(to, v.length, empty_value);
      },
      [&](int64_t at, int64_t width)
          HWY_ATTR { columns(ys + at, xs + at, full_mask.defined() ? full_mask.data<bool>() + at : nullptr, v, width); });
}

template <class T, class Row, class Columns>
void backward(Tensor& dx, const Tensor& dy, const Tensor& y, int axis, Row row, Columns columns) {
  const AxisView v = view_along(y.shape(), axis);
  T* dxs = dx.data<T>();
  const T *dys = dy.data<T>(), *ys = y.data<T>();
  along_axis(
      v, [&](int64_t r) HWY_ATTR { row(dxs + r * v.length, dys + r * v.length, ys + r * v.length, v.length); },
      [&](int64_t at, int64_t width) HWY_ATTR { columns(dxs + at, dys + at, ys + at, v, width); });
}

void softmax(Tensor& y, const Tensor& x, const Tensor& mask, int axis) {
  dispatch_float(x.dtype(), "softmax", [&]<class T>() HWY_ATTR {
    forward(y, x, mask, axis, T(0), softmax_row<false, T>, softmax_row<true, T>, softmax_columns<T>);
  });
}
void softmax_backward(Tensor& dx, const Tensor& dy, const Tensor& y, int axis) {
  dispatch_float(y.dtype(), "softmax",
                 [&]<class T>() HWY_ATTR { backward<T>(dx, dy, y, axis, softmax_row_backward<T>, softmax_columns_backward<T>); });
}
void log_softmax(Tensor& y, const Tensor& x, const Tensor& mask, int axis) {
  dispatch_float(x.dtype(), "log_softmax", [&]<class T>() HWY_ATTR {
    forward(y, x, mask, axis, negative_infinity<T>, log_softmax_row<false, T>, log_softmax_row<true, T>, log_softmax_columns<T>);
  });
}
void log_softmax_backward(Tensor& dx, const Tensor& dy, const Tensor& y, int axis) {
  dispatch_float(y.dtype(), "log_softmax",
                 [&]<class T>() HWY_ATTR { backward<T>(dx, dy, y, axis, log_softmax_row_backward<T>, log_softmax_columns_backward<T>); });
}

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

HWY_EXPORT(softmax);
HWY_EXPORT(softmax_backward);
HWY_EXPORT(log_softmax);
HWY_EXPORT(log_softmax_backward);

void softmax(Tensor& y, const Tensor& x, const Tensor& mask, int axis) { HWY_DYNAMIC_DISPATCH(softmax)(y, x, mask, axis); }
void softmax_backward(Tensor& dx, const Tensor& dy, const Tensor& y, int axis) { HWY_DYNAMIC_DISPATCH(softmax_backward)(dx, dy, y, axis); }
void log_softmax(Tensor& y, const Tensor& x, const Tensor& mask, int axis) { HWY_DYNAMIC_DISPATCH(log_softmax)(y, x, mask, axis); }
void log_softmax_backward(Tensor& dx, const Tensor& dy, const Tensor& y, int axis) {
  HWY_DYNAMIC_DISPATCH(log_softmax_backward)(dx, dy, y, axis);
}

}  // namespace weft::cpu
#endif  // HWY_ONCE
