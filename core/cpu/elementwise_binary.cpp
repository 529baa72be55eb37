// BINARY rows of elementwise.def: y = f(a, b) with broadcasting, and dy * df/da, dy * df/db at the broadcast shape.
#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/core/cpu/elementwise_binary.cpp"
#include <hwy/foreach_target.h>

#include "weft/core/cpu/elementwise-inl.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

#define BINARY WEFT_BINARY_FORMULA
#include "weft/core/elementwise.def"
#undef BINARY

template <class Formula>
void binary(Tensor& y, const Tensor& a, const Tensor& b) {
  dispatch_float(y.dtype(), "binary", [&]<class T>() {
    T* out = y.data<T>();
    parallel_for(y.numel(), light_grain, [&, out](int64_t begin, int64_t end) {
      BroadcastReader<T> ra(a, y.shape()), rb(b, y.shape());
      for_each_block(
          begin, end,
          [&](int64_t at, int64_t n) HWY_ATTR {
            map([](Simd<T> va, Simd<T> vb) HWY_ATTR { return Formula::value(va, vb); }, n, out + at, ra.read(at, n), rb.read(at, n));
          },
          ra, rb);
    });
  });
}

// The two slopes of a formula behind one interface.
template <class Formula>
struct SlopeA {
  static constexpr bool reads_a = Formula::slope_a_reads_a, reads_b = Formula::slope_a_reads_b, reads_y = Formula::slope_a_reads_y;
  template <class V>
  static HWY_INLINE V of(V a, V b, V y) {
    return Formula::slope_a(a, b, y);
  }
};
template <class Formula>
struct SlopeB {
  static constexpr bool reads_a = Formula::slope_b_reads_a, reads_b = Formula::slope_b_reads_b, reads_y = Formula::slope_b_reads_y;
  template <class V>
  static HWY_INLINE V of(V a, V b, V y) {
    return Formula::slope_b(a, b, y);
  }
};

template <class Slope>
void binary_backward(Tensor& dx, const Tensor& dy, const Tensor& a, const Tensor& b, const Tensor& y) {
  dispatch_float(dx.dtype(), "binary_backward", [&]<class T>() {
    T* out = dx.data<T>();
    const T* in = dy.data<T>();
    parallel_for(dx.numel(), light_grain, [&, in, out](int64_t begin, int64_t end) {
      ReaderOf<Slope::reads_a, T> ra(a, dx.shape());
      ReaderOf<Slope::reads_b, T> rb(b, dx.shape());
      for_each_block(
          begin, end,
          [&](int64_t at, int64_t n) HWY_ATTR {
            map([](Simd<T> vdy, Simd<T> va, Simd<T> vb, Simd<T> vy) HWY_ATTR { return vdy * Slope::of(va, vb, vy); }, n, out + at, in + at,
                ra.read(at, n), rb.read(at, n), operand<Slope::reads_y, T>(y, at));
          },
          ra, rb);
    });
  });
}

#define BINARY(name, ...)                                                                                   \
  void name(Tensor& y, const Tensor& a, const Tensor& b) { binary<name##_formula>(y, a, b); }               \
  void name##_backward_a(Tensor& da, const Tensor& dy, const Tensor& a, const Tensor& b, const Tensor& y) { \
    binary_backward<SlopeA<name##_formula>>(da, dy, a, b, y);                                               \
  }                                                                                                         \
  void name##_backward_b(Tensor& db, const Tensor& dy, const Tensor& a, const Tensor& b, const Tensor& y) { \
    binary_backward<SlopeB<name##_formula>>(db, dy, a, b, y);                                               \
  }
#include "weft/core/elementwise.def"
#undef BINARY

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

#define BINARY(name, ...)                                                                                   \
  HWY_EXPORT(name);                                                                                         \
  HWY_EXPORT(name##_backward_a);                                                                            \
  HWY_EXPORT(name##_backward_b);                                                                            \
  void name(Tensor& y, const Tensor& a, const Tensor& b) { HWY_DYNAMIC_DISPATCH(name)(y, a, b); }           \
  void name##_backward_a(Tensor& da, const Tensor& dy, const Tensor& a, const Tensor& b, const Tensor& y) { \
    HWY_DYNAMIC_DISPATCH(name##_backward_a)(da, dy, a, b, y);                                               \
  }                                                                                                         \
  void name##_backward_b(Tensor& db, const Tensor& dy, const Tensor& a, const Tensor& b, const Tensor& y) { \
    HWY_DYNAMIC_DISPATCH(name##_backward_b)(db, dy, a, b, y);                                               \
  }
#include "weft/core/elementwise.def"
#undef BINARY

}  // namespace weft::cpu
#endif  // HWY_ONCE
