// Simd<T>: a full vector of float or double that is written like a number. The formulas of elementwise.def are templates over T and run
// on it unchanged: operators, literals (`1 - y * y`), comparisons that give masks, `select(mask, a, b)`. Maths: math-inl.h.
//
// A file that uses it is compiled once per instruction set:
//
//     #include "weft/core/cpu/targets.h"
//     #undef HWY_TARGET_INCLUDE
//     #define HWY_TARGET_INCLUDE "weft/core/cpu/softmax.cpp"       // this very file
//     #include <hwy/foreach_target.h>
//     #include "weft/core/cpu/math-inl.h"
//     HWY_BEFORE_NAMESPACE();
//     namespace weft::cpu { namespace HWY_NAMESPACE { ... kernels ... } }
//     HWY_AFTER_NAMESPACE();
//     #if HWY_ONCE
//     namespace weft::cpu { HWY_EXPORT(kernel);  void f() { HWY_DYNAMIC_DISPATCH(kernel)(...); } }
//     #endif
//
// Everything that touches a Simd, the templates of formulas included, must stand between HWY_BEFORE_NAMESPACE and HWY_AFTER_NAMESPACE
// (elsewhere it is compiled for the oldest machine), and a lambda there says HWY_ATTR before its body.
//
// Results repeat to the bit on one machine: no step depends on timing, and masked tails compute what full vectors do. They may differ
// between instruction sets in the last bit (fused multiply-add, lanes per sum), within the bounds of math-inl.h.

#if defined(WEFT_CORE_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WEFT_CORE_CPU_SIMD_INL_H_
#undef WEFT_CORE_CPU_SIMD_INL_H_
#else
#define WEFT_CORE_CPU_SIMD_INL_H_
#endif

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "weft/core/cpu/targets.h"
#include "weft/core/math.h"

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace weft {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// The scalar versions stay visible beside the vector overloads below.
using weft::abs, weft::sqrt, weft::rsqrt, weft::square, weft::floor, weft::round, weft::max, weft::min, weft::select, weft::mul_add,
    weft::is_nan;

template <class T>
struct Simd;

// Friends say HWY_ATTR: g++ compiles those of a class template for the oldest machine otherwise, which breaks builds without inlining.

/// One truth value per lane, the result of a comparison of vectors.
template <class T>
struct SimdMask {
  using D = hn::ScalableTag<T>;
  hn::Mask<D> m;

  HWY_INLINE SimdMask(hn::Mask<D> mask) : m(mask) {}
  HWY_INLINE SimdMask(bool all) : m(hn::FirstN(D(), all ? hn::MaxLanes(D()) : 0)) {}

  friend HWY_ATTR HWY_INLINE SimdMask operator&&(SimdMask a, SimdMask b) { return hn::And(a.m, b.m); }
  friend HWY_ATTR HWY_INLINE SimdMask operator||(SimdMask a, SimdMask b) { return hn::Or(a.m, b.m); }
  friend HWY_ATTR HWY_INLINE SimdMask operator!(SimdMask a) { return hn::Not(a.m); }
  /// Lane by lane, mask ? a : b.
  friend HWY_ATTR HWY_INLINE Simd<T> select(SimdMask mask, Simd<T> a, Simd<T> b) { return hn::IfThenElse(mask.m, a.v, b.v); }
  friend HWY_ATTR HWY_INLINE bool any(SimdMask a) { return !hn::AllFalse(D(), a.m); }
};

template <class T>
struct Simd {
  using D = hn::ScalableTag<T>;
  using Mask = SimdMask<T>;
  using Scalar = T;
  hn::Vec<D> v;

  HWY_INLINE Simd() : v(hn::Zero(D())) {}
  HWY_INLINE Simd(hn::Vec<D> vector) : v(vector) {}
  template <class Number, class = std::enable_if_t<std::is_arithmetic_v<Number>>>
  HWY_INLINE Simd(Number x) : v(hn::Set(D(), static_cast<T>(x))) {}

  static constexpr int64_t lanes() { return static_cast<int64_t>(hn::MaxLanes(D())); }

  /// p need not be aligned.
  static HWY_INLINE Simd load(const T* p) { return hn::LoadU(D(), p); }
  HWY_INLINE void store(T* p) const { hn::StoreU(v, D(), p); }

  /// The first n lanes from p, which is not read beyond p + n; the others are zero, or `rest`. n >= lanes() is a plain load.
  static HWY_INLINE Simd load_n(const T* p, int64_t n) {
    if (n >= lanes()) return load(p);
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL  // masked loads of these touch no masked-out lane
    return hn::MaskedLoad(first(n).m, D(), p);
#else
    T lane[lanes()] = {};
    if (n > 0) std::memcpy(lane, p, static_cast<size_t>(n) * sizeof(T));
    return load(lane);
#endif
  }
  static HWY_INLINE Simd load_n(const T* p, int64_t n, T rest) {
    return n >= lanes() ? load(p) : Simd(hn::IfThenElse(first(n).m, load_n(p, n).v, hn::Set(D(), rest)));
  }
  HWY_INLINE void store_n(T* p, int64_t n) const {
    if (n >= lanes()) return store(p);
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
    hn::BlendedStore(v, first(n).m, D(), p);
#else
    T lane[lanes()];
    store(lane);
    if (n > 0) std::memcpy(p, lane, static_cast<size_t>(n) * sizeof(T));
#endif
  }
  /// True in the first n lanes.
  static HWY_INLINE Mask first(int64_t n) { return hn::FirstN(D(), static_cast<size_t>(n)); }

  friend HWY_ATTR HWY_INLINE Simd operator+(Simd a, Simd b) { return hn::Add(a.v, b.v); }
  friend HWY_ATTR HWY_INLINE Simd operator-(Simd a, Simd b) { return hn::Sub(a.v, b.v); }
  friend HWY_ATTR HWY_INLINE Simd operator*(Simd a, Simd b) { return hn::Mul(a.v, b.v); }
  friend HWY_ATTR HWY_INLINE Simd operator/(Simd a, Simd b) { return hn::Div(a.v, b.v); }
  friend HWY_ATTR HWY_INLINE Simd operator-(Simd a) { return hn::Neg(a.v); }
  HWY_INLINE Simd& operator+=(Simd b) { return *this = *this + b; }
  HWY_INLINE Simd& operator-=(Simd b) { return *this = *this - b; }
  HWY_INLINE Simd& operator*=(Simd b) { return *this = *this * b; }
  HWY_INLINE Simd& operator/=(Simd b) { return *this = *this / b; }

  friend HWY_ATTR HWY_INLINE Mask operator<(Simd a, Simd b) { return hn::Lt(a.v, b.v); }
  friend HWY_ATTR HWY_INLINE Mask operator>(Simd a, Simd b) { return hn::Gt(a.v, b.v); }
  friend HWY_ATTR HWY_INLINE Mask operator<=(Simd a, Simd b) { return hn::Le(a.v, b.v); }
  friend HWY_ATTR HWY_INLINE Mask operator>=(Simd a, Simd b) { return hn::Ge(a.v, b.v); }
  friend HWY_ATTR HWY_INLINE Mask operator==(Simd a, Simd b) { return hn::Eq(a.v, b.v); }
  friend HWY_ATTR HWY_INLINE Mask operator!=(Simd a, Simd b) { return hn::Ne(a.v, b.v); }
  friend HWY_ATTR HWY_INLINE Mask is_nan(Simd a) { return hn::IsNaN(a.v); }

  friend HWY_ATTR HWY_INLINE Simd abs(Simd a) { return hn::Abs(a.v); }
  friend HWY_ATTR HWY_INLINE Simd sqrt(Simd a) { return hn::Sqrt(a.v); }
  friend HWY_ATTR HWY_INLINE Simd rsqrt(Simd a) { return 1 / sqrt(a); }
  friend HWY_ATTR HWY_INLINE Simd square(Simd a) { return a * a; }
  friend HWY_ATTR HWY_INLINE Simd floor(Simd a) { return hn::Floor(a.v); }
  /// Halves to even.
  friend HWY_ATTR HWY_INLINE Simd round(Simd a) { return hn::Round(a.v); }
  /// The magnitude of a with the sign of b.
  friend HWY_ATTR HWY_INLINE Simd copy_sign(Simd a, Simd b) { return hn::CopySign(a.v, b.v); }
  /// a * b + c, rounded once where the machine has fused multiply-add.
  friend HWY_ATTR HWY_INLINE Simd mul_add(Simd a, Simd b, Simd c) { return hn::MulAdd(a.v, b.v, c.v); }
  /// NaN if either argument is.
  friend HWY_ATTR HWY_INLINE Simd max(Simd a, Simd b) { return select(a > b || is_nan(a), a, b); }
  friend HWY_ATTR HWY_INLINE Simd min(Simd a, Simd b) { return select(a < b || is_nan(a), a, b); }

  /// Sum of all lanes, in an order fixed by the instruction set.
  friend HWY_ATTR HWY_INLINE T sum(Simd a) { return hn::GetLane(hn::SumOfLanes(D(), a.v)); }
  /// NaN if any lane is.
  friend HWY_ATTR HWY_INLINE T max_of(Simd a) {
    return any(is_nan(a)) ? std::numeric_limits<T>::quiet_NaN() : hn::GetLane(hn::MaxOfLanes(D(), a.v));
  }
  friend HWY_ATTR HWY_INLINE T min_of(Simd a) {
    return any(is_nan(a)) ? std::numeric_limits<T>::quiet_NaN() : hn::GetLane(hn::MinOfLanes(D(), a.v));
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace weft
HWY_AFTER_NAMESPACE();

#endif  // WEFT_CORE_CPU_SIMD_INL_H_
