// Gradients of the reductions: what arrives at a group of elements is handed to its members.
#include "weft/core/kernels.h"

#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/core/cpu/reduce_backward.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>
#include <limits>

#include "weft/core/axis.h"
#include "weft/core/cpu/loops-inl.h"
#include "weft/core/cpu/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t spread_size = 1 << 15;  // elements that are worth a thread

// dx[i] = f(i, j, n) for vectors of n elements, where j is the element of y that x[i] was reduced to. f gets the loader of y's side:
// one value for all lanes when the innermost axis was reduced, neighbours otherwise.
template <class T, class F>
void spread(const AxisGroups& groups, F f) {
  const bool reduced = groups.count > 0 && groups[groups.count - 1].reduced;
  const int64_t run = groups.count > 0 ? groups[groups.count - 1].size : 1;
  int64_t runs = 1;
  for (int g = 0; g + 1 < groups.count; ++g) runs *= groups[g].size;
  const int64_t pieces = ceil_div(run, spread_size);
  parallel_for(runs * pieces, spread_size / run + 1, [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item % pieces * spread_size, size = std::min(spread_size, run - first);
      int64_t j = 0, stride = reduced ? 1 : run, rest = item / pieces;
      for (int g = groups.count - 2; g >= 0; --g) {
        if (!groups[g].reduced) {
          j += rest % groups[g].size * stride;
          stride *= groups[g].size;
        }
        rest /= groups[g].size;
      }
      const int64_t at = item / pieces * run + first;
      if (reduced) {
        each_vector<T>(size, [&](int64_t i, int64_t n) HWY_ATTR { f(at + i, n, [&](const T* p) HWY_ATTR { return Simd<T>(p[j]); }); });
      } else {
        each_vector<T>(size, [&](int64_t i, int64_t n)
                                 HWY_ATTR { f(at + i, n, [&](const T* p) HWY_ATTR { return Simd<T>::load_n(p + j + first + i, n); }); });
      }
    }
  });
}

void reduce_extreme_backward(Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& y, AxisSet axes) {
  dispatch_float(x.dtype(), "max", [&]<class T>() HWY_ATTR {
    using S = Simd<T>;
    const AxisGroups groups(x.shape(), axes);
    if (x.numel() == 0) return;
    T* dxs = dx.data<T>();
    const T *xs = x.data<T>(), *ys = y.data<T>();
    spread<T>(groups, [&](int64_t i, int64_t n, auto of) HWY_ATTR {  // 1 where x is the extreme (NaN is the extreme of its group)
      const S a = S::load_n(xs + i, n), b = of(ys);
      select(a == b || (is_nan(a) && is_nan(b)), S(1), S(0)).store_n(dxs + i, n);
    });
    Tensor share = empty_like(y);
    sum(share, dx, axes);  // how many there are
    T* shares = share.data<T>();
    const T* dys = dy.data<T>();
    for (int64_t j = 0; j < y.numel(); ++j) shares[j] = dys[j] / shares[j];
    spread<T>(groups, [&](int64_t i, int64_t n, auto of) HWY_ATTR { (S::load_n(dxs + i, n) * of(shares)).store_n(dxs + i, n); });
  });
}

void logsumexp_backward(Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& y, AxisSet axes) {
  dispatch_float(x.dtype(), "logsumexp", [&]<class T>() HWY_ATTR {
    using S = Simd<T>;
    const AxisGroups groups(x.shape(), axes);
    if (x.numel() == 0) return;
    T* dxs = dx.data<T>();
    const T *dys = dy.data<T>(), *xs = x.data<T>(), *ys = y.data<T>();
    spread<T>(groups, [&](int64_t i, int64_t n, auto of) HWY_ATTR {
      const S result = of(ys);
      const S share = exp_nonpositive(S::load_n(xs + i, n) - result);
      // A group of -infinities only has no direction to grow in: zero.
      select(result == -std::numeric_limits<T>::infinity(), S(0), of(dys) * share).store_n(dxs + i, n);
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

HWY_EXPORT(reduce_extreme_backward);
HWY_EXPORT(logsumexp_backward);

void reduce_extreme_backward(Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& y, AxisSet axes) {
  HWY_DYNAMIC_DISPATCH(reduce_extreme_backward)(dx, dy, x, y, axes);
}
void logsumexp_backward(Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& y, AxisSet axes) {
  HWY_DYNAMIC_DISPATCH(logsumexp_backward)(dx, dy, x, y, axes);
}

}  // namespace weft::cpu
#endif  // HWY_ONCE
