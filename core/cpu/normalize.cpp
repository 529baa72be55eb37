// y = x / max(|x|, eps) along any axis.
#include "weft/core/kernels.h"

#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/core/cpu/normalize.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>

#include "weft/core/cpu/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

// |x| from a sum of squares; one that has overflowed is taken again in double.
template <class T>
T norm_of(T squares, const T* x, int64_t size, int64_t stride) {
  if (squares < std::numeric_limits<T>::infinity()) return std::sqrt(squares);
  double total = 0;
  for (int64_t i = 0; i < size; ++i) total += static_cast<double>(x[i * stride]) * static_cast<double>(x[i * stride]);
  return static_cast<T>(std::sqrt(total));
}

// sums[column] = sum of a * b down each of `width` columns.
template <class T>
void column_dots(T* sums, const T* a, const T* b, AxisView v, int64_t width) {
  using S = Simd<T>;
  std::fill_n(sums, width, T(0));
  for (int64_t l = 0; l < v.length; ++l) {
    const T *p = a + l * v.inner, *q = b + l * v.inner;
    each_vector<T>(width, [&](int64_t i, int64_t n)
                              HWY_ATTR { mul_add(S::load_n(p + i, n), S::load_n(q + i, n), S::load_n(sums + i, n)).store_n(sums + i, n); });
  }
}

void l2_normalize(Tensor& y, Tensor& norm, const Tensor& x, int axis, double eps) {
  dispatch_float(x.dtype(), "l2_normalize", [&]<class T>() HWY_ATTR {
    using S = Simd<T>;
    const AxisView v = view_along(x.shape(), axis);
    T *ys = y.data<T>(), *norms = norm.data<T>();
    const T* xs = x.data<T>();
    const auto smallest = static_cast<T>(eps);
    along_axis(
        v,
        [&](int64_t r) HWY_ATTR {
          const T* row = xs + r * v.length;
          norms[r] =
              norm_of(sum_row<T>(v.length, [&](int64_t i, int64_t n) HWY_ATTR { return square(S::load_n(row + i, n)); }), row, v.length, 1);
          const S length = max(norms[r], smallest);
          each_vector<T>(v.length,
                         [&](int64_t i, int64_t n) HWY_ATTR { (S::load_n(row + i, n) / length).store_n(ys + r * v.length + i, n); });
        },
        [&](int64_t at, int64_t width) HWY_ATTR {
          T length[most_block_columns];
          T* const found = norms + at / (v.length * v.inner) * v.inner + at % v.inner;
          column_dots(length, xs + at, xs + at, v, width);
          for (int64_t i = 0; i < width; ++i) {
            found[i] = norm_of(length[i], xs + at + i, v.length, v.inner);
            length[i] = max(found[i], smallest);
          }
          for (int64_t l = 0; l < v.length; ++l) {
            const int64_t row = at + l * v.inner;
            each_vector<T>(width, [&](int64_t i, int64_t n)
                                      HWY_ATTR { (S::load_n(xs + row + i, n) / S::load_n(length + i, n, T(1))).store_n(ys + row + i, n); });
          }
        });
  });
}

// dx = (dy - y sum(dy y)) / |x|, or dy / eps where |x| < eps.
void l2_normalize_backward(Tensor& dx, const Tensor& dy, const Tensor& y, const Tensor& norm, int axis, double eps) {
  dispatch_float(y.dtype(), "l2_normalize", [&]<class T>() HWY_ATTR {
    using S = Simd<T>;
    const AxisView v = view_along(y.shape(), axis);
    T* dxs = dx.data<T>();
    const T *dys = dy.data<T>(), *ys = y.data<T>(), *norms = norm.data<T>();
    const auto smallest = static_cast<T>(eps);
    along_axis(
        v,
        [&](int64_t r) HWY_ATTR {
          const T *a = dys + r * v.length, *b = ys + r * v.length;
          const T dot = sum_row<T>(v.length, [&](int64_t i, int64_t n) HWY_ATTR { return S::load_n(a + i, n) * S::load_n(b + i, n); });
          const S along = norms[r] < smallest ? T(0) : dot, length = max(norms[r], smallest);
          each_vector<T>(v.length, [&](int64_t i, int64_t n) HWY_ATTR {
            ((S::load_n(a + i, n) - S::load_n(b + i, n) * along) / length).store_n(dxs + r * v.length + i, n);
          });
        },
        [&](int64_t at, int64_t width) HWY_ATTR {
          T dots[most_block_columns], length[most_block_columns];
          const T* const found = norms + at / (v.length * v.inner) * v.inner + at % v.inner;
          column_dots(dots, dys + at, ys + at, v, width);
          for (int64_t i = 0; i < width; ++i) {
            length[i] = max(found[i], smallest);
            if (found[i] < smallest) dots[i] = 0;
          }
          for (int64_t l = 0; l < v.length; ++l) {
            const int64_t row = at + l * v.inner;
            each_vector<T>(width, [&](int64_t i, int64_t n) HWY_ATTR {
              const S across = S::load_n(dys + row + i, n) - S::load_n(ys + row + i, n) * S::load_n(dots + i, n);
              (across / S::load_n(length + i, n, T(1))).store_n(dxs + row + i, n);
            });
          }
        });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

HWY_EXPORT(l2_normalize);
HWY_EXPORT(l2_normalize_backward);

void l2_normalize(Tensor& y, Tensor& norm, const Tensor& x, int axis, double eps) {
  HWY_DYNAMIC_DISPATCH(l2_normalize)(y, norm, x, axis, eps);
}
void l2_normalize_backward(Tensor& dx, const Tensor& dy, const Tensor& y, const Tensor& norm, int axis, double eps) {
  HWY_DYNAMIC_DISPATCH(l2_normalize_backward)(dx, dy, y, norm, axis, eps);
}

}  // namespace weft::cpu
#endif  // HWY_ONCE
