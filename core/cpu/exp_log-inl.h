// exp, expm1, log, log1p of Simd<float> and Simd<double>, and the pieces of floating-point numbers that they are made of. math-inl.h has
// the rest and the table of error bounds; include that.

#if defined(WEFT_CORE_CPU_EXP_LOG_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WEFT_CORE_CPU_EXP_LOG_INL_H_
#undef WEFT_CORE_CPU_EXP_LOG_INL_H_
#else
#define WEFT_CORE_CPU_EXP_LOG_INL_H_
#endif

#include "weft/core/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace weft {
namespace HWY_NAMESPACE {

using weft::exp, weft::exp_nonpositive, weft::expm1, weft::log, weft::log1p;

namespace detail {

// The layout of T, and where its exponential and logarithm end.
template <class T>
struct Format;
template <>
struct Format<float> {
  using Bits = uint32_t;
  static constexpr int mantissa_bits = 23;
  static constexpr Bits exponent_bias = 127;
  static constexpr float round_magic = 0x1.8p23f;  // x + round_magic holds round(x) in its lowest bits
  static constexpr float ln2_hi = 0x1.62e4p-1f;    // 15 bits: its product with an exponent is exact
  static constexpr float ln2_lo = 0x1.7f7d1cf8p-20f;
  static constexpr float exp_lowest = -104, exp_highest = 89;  // beyond these e^x is 0 and infinite
  static constexpr float exp_lowest_normal = -87.3f;
  static constexpr float expm1_lowest = -18;     // below, e^x - 1 rounds to -1
  static constexpr Bits sqrt_half = 0x3f3504f3;  // bits of sqrt(1/2)
  static constexpr float denormal_scale = 0x1p24f, denormal_shift = 24;
  static constexpr float erf_highest = 3.95f;  // beyond, erf rounds to 1
};
template <>
struct Format<double> {
  using Bits = uint64_t;
  static constexpr int mantissa_bits = 52;
  static constexpr Bits exponent_bias = 1023;
  static constexpr double round_magic = 0x1.8p52;
  static constexpr double ln2_hi = 0x1.62e42feep-1;  // 32 bits
  static constexpr double ln2_lo = 0x1.a39ef35793c76p-33;
  static constexpr double exp_lowest = -746, exp_highest = 710;
  static constexpr double exp_lowest_normal = -708.3;
  static constexpr double expm1_lowest = -38;
  static constexpr Bits sqrt_half = 0x3fe6a09e667f3bcd;
  static constexpr double denormal_scale = 0x1p54, denormal_shift = 54;
  static constexpr double erf_highest = 5.95;
};

template <class T>
using BitsTag = hn::Rebind<typename Format<T>::Bits, typename Simd<T>::D>;

template <class T>
HWY_INLINE auto to_bits(Simd<T> x) {
  return hn::BitCast(BitsTag<T>(), x.v);
}
template <class T, class V>
HWY_INLINE Simd<T> from_bits(V bits) {
  return hn::BitCast(typename Simd<T>::D(), bits);
}
template <class T>
HWY_INLINE auto bits_of(typename Format<T>::Bits bits) {
  return hn::Set(BitsTag<T>(), bits);
}

/// c0 + c1 x + c2 x^2 + ..., by Horner's rule.
template <class T>
HWY_INLINE Simd<T> polynomial(Simd<T>, double c) {
  return c;
}
template <class T, class... Rest>
HWY_INLINE Simd<T> polynomial(Simd<T> x, double c, Rest... rest) {
  return mul_add(polynomial(x, rest...), x, Simd<T>(c));
}

/// x limited to [lo, hi]; NaN stays.
template <class T>
HWY_INLINE Simd<T> limit(Simd<T> x, T lo, T hi) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL  // max and min give their second argument if one is NaN
  return hn::Min(hn::Set(typename Simd<T>::D(), hi), hn::Max(hn::Set(typename Simd<T>::D(), lo), x.v));
#else
  return select(x < lo, lo, select(x > hi, hi, x));
#endif
}

/// x = n ln 2 + r with |r| <= ln(2)/2: `n`, `r`, and n once more in the lowest bits of `shifted`.
template <class T>
struct Reduced {
  Simd<T> n, r, shifted;
};
template <class T>
HWY_INLINE Reduced<T> reduce_by_ln2(Simd<T> x) {
  using F = Format<T>;
  const Simd<T> shifted = mul_add(x, Simd<T>(1.44269504088896340736), Simd<T>(F::round_magic));
  const Simd<T> n = shifted - F::round_magic;
  const Simd<T> r = mul_add(n, Simd<T>(-F::ln2_lo), mul_add(n, Simd<T>(-F::ln2_hi), x));
  return {n, r, shifted};
}

/// 2^n for an n in the lowest bits of `shifted`, as far as it is a normal number. The high bits of round_magic leave in the shift.
template <class T, class V>
HWY_INLINE Simd<T> power_of_two(V shifted) {
  return from_bits<T>(hn::ShiftLeft<Format<T>::mantissa_bits>(hn::Add(shifted, bits_of<T>(Format<T>::exponent_bias))));
}

/// p 2^n, rounded once, also where it overflows or is denormal.
template <class T>
HWY_INLINE Simd<T> scale_by_power(Simd<T> p, Reduced<T> x) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  if constexpr (std::is_same_v<T, float>) {
    return hn::Vec<typename Simd<T>::D>{_mm512_scalef_ps(p.v.raw, x.n.v.raw)};
  } else {
    return hn::Vec<typename Simd<T>::D>{_mm512_scalef_pd(p.v.raw, x.n.v.raw)};
  }
#else
  const auto half = to_bits(mul_add(x.n, Simd<T>(0.5), Simd<T>(Format<T>::round_magic)));  // 2^n = 2^half 2^(n - half)
  return p * power_of_two<T>(half) * power_of_two<T>(hn::Sub(to_bits(x.shifted), half));
#endif
}

/// The same for an n of normal 2^n only, and NaN for NaN.
template <class T>
HWY_INLINE Simd<T> scale_by_normal_power(Simd<T> p, Reduced<T> x) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  return scale_by_power(p, x);
#else
  return p * power_of_two<T>(to_bits(x.shifted));
#endif
}

// (e^r - 1 - r) / r^2 on |r| <= ln(2)/2; error 2^-26.2 and 2^-55.6 of e^r - 1.
HWY_INLINE Simd<float> exp_tail(Simd<float> r) {
  return polynomial(r, 0.4999999815, 0.1666654361, 0.04166720027, 0.008366521543, 0.001388249285);
}
HWY_INLINE Simd<double> exp_tail(Simd<double> r) {
  return polynomial(r, 0.50000000000000051784, 0.16666666666666589244, 0.041666666666576760512, 0.0083333333333895673823,
                    0.0013888888931563399494, 0.00019841269718985012847, 0.000024801505275357024436, 2.7557407554068928914e-6,
                    2.7626037322290797146e-7, 2.505377351586926679e-8);
}

/// log(1 + f) + e ln 2 for sqrt(1/2) <= 1 + f <= sqrt(2) and an integer e.
HWY_INLINE Simd<float> log_of_parts(Simd<float> f, Simd<float> e) {
  using F = Format<float>;
  // (log(1 + f) - f + f^2/2) / f^3; error 2^-27.3
  const Simd<float> p =
      polynomial(f, 0.3333331671, -0.2500081086, 0.2000228794, -0.1662453545, 0.1418114318, -0.1312891673, 0.1288206756, -0.07859649433);
  const Simd<float> f2 = f * f;
  const Simd<float> small = mul_add(Simd<float>(-0.5), f2, mul_add(f2 * f, p, e * F::ln2_lo));
  return mul_add(e, Simd<float>(F::ln2_hi), f + small);
}
HWY_INLINE Simd<double> log_of_parts(Simd<double> f, Simd<double> e) {
  using F = Format<double>;
  // With s = f / (2 + f): log(1 + f) = 2 atanh(s) = 2s + s z a(z) = f - (f^2/2 - s (f^2/2 + z a(z))), z = s^2.
  const Simd<double> s = f / (2 + f);
  const Simd<double> z = s * s;
  // (2 atanh(s) - 2s) / s^3 in z on [0, 0.02945]; error 2^-58.5
  const Simd<double> a = polynomial(z, 0.66666666666667346164, 0.39999999999413149957, 0.28571428742762544223, 0.22222198531385529347,
                                    0.18183566661109136984, 0.15313986860329175901, 0.14796624753409383217);
  const Simd<double> half_f2 = Simd<double>(0.5) * f * f;
  const Simd<double> small = half_f2 - mul_add(s, mul_add(z, a, half_f2), e * F::ln2_lo);
  return mul_add(e, Simd<double>(F::ln2_hi), f - small);
}

/// x = 2^e m with sqrt(1/2) <= m < sqrt(2), for positive normal x.
template <class T>
struct Parts {
  Simd<T> m, e;
};
template <class T>
HWY_INLINE Parts<T> split_exponent(Simd<T> x) {
  using F = Format<T>;
  constexpr T two_m = static_cast<T>(uint64_t{1} << F::mantissa_bits);  // two_m + k has k in its lowest bits
  const auto bits = to_bits(x);
  const auto biased = hn::ShiftRight<F::mantissa_bits>(
      hn::Add(bits, bits_of<T>((F::exponent_bias << F::mantissa_bits) - F::sqrt_half)));  // e + exponent_bias
  const auto e_in_mantissa = hn::Or(biased, to_bits(Simd<T>(two_m)));
  const auto shifted_e = hn::ShiftLeft<F::mantissa_bits>(hn::Sub(biased, bits_of<T>(F::exponent_bias)));
  return {from_bits<T>(hn::Sub(bits, shifted_e)), from_bits<T>(e_in_mantissa) - (two_m + static_cast<T>(F::exponent_bias))};
}

/// `result` where 0 < x < infinity; the logarithm of x elsewhere.
template <class T>
HWY_INLINE Simd<T> with_log_specials(Simd<T> result, Simd<T> x) {
  constexpr T inf = std::numeric_limits<T>::infinity();
  const Simd<T> special = select(x == 0, -inf, select(x == inf, x, std::numeric_limits<T>::quiet_NaN()));
  return select(x > 0 && x < inf, result, special);
}

}  // namespace detail

/// e^x.
template <class T>
HWY_INLINE Simd<T> exp(Simd<T> x) {
  using F = detail::Format<T>;
  const auto reduced = detail::reduce_by_ln2(detail::limit(x, F::exp_lowest, F::exp_highest));
  const Simd<T> r = reduced.r;
  return detail::scale_by_power(mul_add(mul_add(detail::exp_tail(r), r, Simd<T>(1)), r, Simd<T>(1)), reduced);
}

/// e^x for x <= 0, faster; zero below exp_lowest_normal (-87.3 for float). For softmax and attention, where a row's maximum is subtracted.
template <class T>
HWY_INLINE Simd<T> exp_nonpositive(Simd<T> x) {
  using F = detail::Format<T>;
  const auto reduced = detail::reduce_by_ln2(x);
  const Simd<T> r = reduced.r;
  const Simd<T> p = mul_add(mul_add(detail::exp_tail(r), r, Simd<T>(1)), r, Simd<T>(1));
  const Simd<T> y = detail::scale_by_normal_power(p, reduced);
  return hn::IfThenZeroElse((x < F::exp_lowest_normal).m, y.v);
}

/// e^x - 1.
template <class T>
HWY_INLINE Simd<T> expm1(Simd<T> x) {
  using F = detail::Format<T>;
  const auto reduced = detail::reduce_by_ln2(detail::limit(x, F::expm1_lowest, F::exp_highest));
  const Simd<T> r = reduced.r;
  const Simd<T> q = mul_add(detail::exp_tail(r), r * r, r);  // e^r - 1
  // e^x - 1 = 2^n q + (2^n - 1), as twice its half: 2^n itself may overflow.
  const Simd<T> half = detail::power_of_two<T>(hn::Sub(detail::to_bits(reduced.shifted), detail::bits_of<T>(1)));
  const Simd<T> scaled = mul_add(half, q, half - T(0.5)) * 2;
  return copy_sign(select(reduced.n == 0, q, scaled), x);
}

/// Natural logarithm.
template <class T>
HWY_INLINE Simd<T> log(Simd<T> x) {
  using F = detail::Format<T>;
  const auto denormal = x < std::numeric_limits<T>::min();
  const auto parts = detail::split_exponent(select(denormal, x * F::denormal_scale, x));
  const Simd<T> e = parts.e - select(denormal, F::denormal_shift, 0);
  return detail::with_log_specials(detail::log_of_parts(parts.m - 1, e), x);
}

/// log(1 + x).
template <class T>
HWY_INLINE Simd<T> log1p(Simd<T> x) {
  using F = detail::Format<T>;
  const Simd<T> u = 1 + x;
  const Simd<T> back = u - 1;
  const Simd<T> lost = (1 - (u - back)) + (x - back);  // 1 + x = u + lost, exactly
  const auto parts = detail::split_exponent(u);        // 1 + x = 2^e (m + lost 2^-e)
  const Simd<T> inverse = detail::from_bits<T>(        // 2^-e = m / u
      hn::Sub(detail::to_bits(Simd<T>(1)), hn::Sub(detail::to_bits(u), detail::to_bits(parts.m))));
  const Simd<T> f = (parts.m - 1) + select(x < T(uint64_t{1} << (F::mantissa_bits + 1)), lost * inverse, 0);
  const Simd<T> y = detail::with_log_specials(detail::log_of_parts(f, parts.e), u);
  return select(x == 0, x, y);  // keeps the sign of zero
}

}  // namespace HWY_NAMESPACE
}  // namespace weft
HWY_AFTER_NAMESPACE();

#endif  // WEFT_CORE_CPU_EXP_LOG_INL_H_
