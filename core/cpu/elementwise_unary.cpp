// UNARY and UNARY_P rows of elementwise.def: y = f(x) and dx = dy * f'.
#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/core/cpu/elementwise_unary.cpp"
#include <hwy/foreach_target.h>

#include "weft/core/cpu/elementwise-inl.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

#define UNARY WEFT_UNARY_FORMULA
#define UNARY_P WEFT_UNARY_P_FORMULA
#include "weft/core/elementwise.def"
#undef UNARY
#undef UNARY_P

// `p` is empty, or the one parameter of an UNARY_P row.
template <class Formula, class... P>
void unary(Tensor& y, const Tensor& x, P... p) {
  dispatch_float(x.dtype(), "unary", [&]<class T>() {
    T* out = y.data<T>();
    const T* in = x.data<T>();
    parallel_for(y.numel(), light_grain, [=](int64_t begin, int64_t end) HWY_ATTR {
      map([=](Simd<T> vx) HWY_ATTR { return Formula::value(vx, Simd<T>(p)...); }, end - begin, out + begin, in + begin);
    });
  });
}

template <class Formula, class... P>
void unary_backward(Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& y, P... p) {
  dispatch_float(dx.dtype(), "unary_backward", [&]<class T>() {
    T* out = dx.data<T>();
    parallel_for(dx.numel(), light_grain, [&, out](int64_t begin, int64_t end) HWY_ATTR {
      map([=](Simd<T> vdy, Simd<T> vx, Simd<T> vy) HWY_ATTR { return vdy * Formula::slope(vx, vy, Simd<T>(p)...); }, end - begin,
          out + begin, operand<true, T>(dy, begin), operand<Formula::slope_reads_x, T>(x, begin),
          operand<Formula::slope_reads_y, T>(y, begin));
    });
  });
}

#define UNARY(name, ...)                                                 \
  void name(Tensor& y, const Tensor& x) { unary<name##_formula>(y, x); } \
  void name##_backward(Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& y) { unary_backward<name##_formula>(dx, dy, x, y); }
#define UNARY_P(name, ...)                                                                         \
  void name(Tensor& y, const Tensor& x, double p) { unary<name##_formula>(y, x, p); }              \
  void name##_backward(Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& y, double p) { \
    unary_backward<name##_formula>(dx, dy, x, y, p);                                               \
  }
#include "weft/core/elementwise.def"
#undef UNARY
#undef UNARY_P

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

#define UNARY(name, ...)                                                                 \
  HWY_EXPORT(name);                                                                      \
  HWY_EXPORT(name##_backward);                                                           \
  void name(Tensor& y, const Tensor& x) { HWY_DYNAMIC_DISPATCH(name)(y, x); }            \
  void name##_backward(Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& y) { \
    HWY_DYNAMIC_DISPATCH(name##_backward)(dx, dy, x, y);                                 \
  }
#define UNARY_P(name, ...)                                                                         \
  HWY_EXPORT(name);                                                                                \
  HWY_EXPORT(name##_backward);                                                                     \
  void name(Tensor& y, const Tensor& x, double p) { HWY_DYNAMIC_DISPATCH(name)(y, x, p); }         \
  void name##_backward(Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& y, double p) { \
    HWY_DYNAMIC_DISPATCH(name##_backward)(dx, dy, x, y, p);                                        \
  }
#include "weft/core/elementwise.def"
#undef UNARY
#undef UNARY_P

}  // namespace weft::cpu
#endif  // HWY_ONCE
