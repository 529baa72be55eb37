// Elementary functions of Simd<float> and Simd<double>, right for every argument: NaN gives NaN, infinities, zeros and denormals as in
// the C library. Bounds on the error in units of the last place (ulp); tests/core/simd_math_test.cpp samples the whole range on every
// instruction set:
//
//     exp                  float 1.25   double 1.25      sigmoid             float 2.5    double 2.5
//     expm1                float 2      double 2.5       softplus            float 2      double 2
//     log                  float 1      double 1         sin, cos            float 0.51   double 2
//     log1p                float 1.5    double 1.5       rsqrt               float 1.5    double 1.5
//     tanh                 float 1.5    double 1.5       pow                 float 0.51   double: the C library's
//     erf                  float 1.5    double 1.5       sqrt, + - * /       correctly rounded
//     exp_nonpositive      as exp, but results below the smallest normal number are zero
//
// Polynomials are minimax fits of our own (Remez exchange in 60 digits, error weighted by the function's value); the comment at each
// gives the function, the interval and the weighted error of the fit. No step relies on products being fused or not: the bounds hold
// with and without fused multiply-add, and under any -ffp-contract.

#if defined(WEFT_CORE_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WEFT_CORE_CPU_MATH_INL_H_
#undef WEFT_CORE_CPU_MATH_INL_H_
#else
#define WEFT_CORE_CPU_MATH_INL_H_
#endif

#include "weft/core/cpu/exp_log-inl.h"

HWY_BEFORE_NAMESPACE();
namespace weft {
namespace HWY_NAMESPACE {

using weft::tanh, weft::erf, weft::sigmoid, weft::softplus, weft::sin, weft::cos, weft::pow;

namespace detail {

// (tanh(x) - x) / x^3 in z = x^2 on |x| <= 0.625; error 2^-27.8 and 2^-61.2
HWY_INLINE Simd<float> tanh_tail(Simd<float> z) {
  return polynomial(z, -0.3333328195, 0.1333144222, -0.053739714, 0.02063907857, -0.005704974379);
}
HWY_INLINE Simd<double> tanh_tail(Simd<double> z) {
  return polynomial(z, -0.33333333333333312814, 0.13333333333329742678, -0.053968253966058832929, 0.0218694884687136293,
                    -0.0088632343125537140214, 0.003592113999658550714, -0.001455725946822199499, 0.00058945179416774179742,
                    -0.00023701171784058823217, 0.000091558391217926934697, -0.000030187200360391648111, 6.0424595251885290023e-6);
}

// erf(x) / x - 1 in z = x^2 on |x| <= 1; error 2^-29.6 and 2^-62.7
HWY_INLINE Simd<float> erf_tail(Simd<float> z) {
  return polynomial(z, 0.1283791657, -0.3761262583, 0.1128358515, -0.02685381185, 0.00518832732, -0.0008010189247, 7.853844046e-5);
}
HWY_INLINE Simd<double> erf_tail(Simd<double> z) {
  return polynomial(z, 0.12837916709551257375, -0.37612638903183747604, 0.11283791670954857469, -0.026866170645072891167,
                    0.0052239776247808346541, -0.00085483269787405676193, 0.00012055331036846668256, -0.000014925593505766363022,
                    1.6460972801190717729e-6, -1.6350025076223881226e-7, 1.4657878989888878528e-8, -1.1365663136628493368e-9,
                    5.9452576939415425229e-11);
}
// log(erfc(x)) on [1, 3.95] and [1, 5.95]; error 2^-29.8 and 2^-59.5 of erf(x)
HWY_INLINE Simd<float> log_erfc(Simd<float> x) {
  return polynomial(x, -0.000341564426, -1.127089024, -0.638145104, -0.1031065249, 0.02183795755, -0.002947632729, 0.000186376706);
}
HWY_INLINE Simd<double> log_erfc(Simd<double> x) {
  return polynomial(x, -1.79618108122286519e-7, -1.1283773292821517642, -0.63662848884983805276, -0.10274725226238519151,
                    0.019078155086197511556, 0.00028048990972251561161, -0.0017690024550648838498, 0.00064117452291828157217,
                    -0.00004482389121284428256, -0.000070365737897883142402, 0.000045036925026676187342, -0.000016513764053458413699,
                    4.3269917195685692251e-6, -8.5056375867821838763e-7, 1.2570340364345316387e-7, -1.3626545439987291345e-8,
                    1.0256902055451347455e-9, -4.7959952861755259613e-11, 1.0496138139181274806e-12);
}

/// f(x, ...) lane by lane, for a scalar f.
template <class T, class F, class... Vectors>
HWY_INLINE Simd<T> by_lane(F f, Simd<T> x, Vectors... more) {
  constexpr int64_t n = Simd<T>::lanes();
  T in[1 + sizeof...(more)][n], out[n];
  int row = 0;
  x.store(in[row++]);
  (more.store(in[row++]), ...);
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (sizeof...(more) == 0) {
      out[i] = f(in[0][i]);
    } else {
      out[i] = f(in[0][i], in[1][i]);
    }
  }
  return Simd<T>::load(out);
}

/// A float function computed in double, half of the lanes at a time: correctly rounded but for rare ties.
template <class F, class... Vectors>
HWY_INLINE Simd<float> in_double(F f, Vectors... x) {
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128  // their DemoteTo turns infinity into the largest number
  return by_lane([f](auto... lane) { return static_cast<float>(hn::GetLane(f(Simd<double>(lane)...).v)); }, x...);
#else
  using D = Simd<float>::D;
  const hn::Half<D> half;
  const hn::ScalableTag<double> wide;
  const Simd<double> low = f(Simd<double>(hn::PromoteTo(wide, hn::LowerHalf(half, x.v)))...);
  const Simd<double> high = f(Simd<double>(hn::PromoteTo(wide, hn::UpperHalf(half, x.v)))...);
  return hn::Combine(D(), hn::DemoteTo(half, high.v), hn::DemoteTo(half, low.v));
#endif
}

/// sin(x + quarter_turns pi/2). Arguments beyond 2^20, and infinities, go to the C library.
HWY_INLINE Simd<double> sin_shifted(Simd<double> x, uint64_t quarter_turns) {
  using S = Simd<double>;
  // x - n pi/2 with pi/2 in four parts, the first three of 33 bits: every product but the last is exact.
  const S shifted = mul_add(x, S(0.6366197723675813430755), S(Format<double>::round_magic));
  const S n = shifted - Format<double>::round_magic;
  S r = mul_add(n, S(-0x1.921fb544p+0), x);
  r = mul_add(n, S(-0x1.0b4611a6p-34), r);
  r = mul_add(n, S(-0x1.3198a2e0p-69), r);
  r = mul_add(n, S(-0x1.b839a252049c1p-104), r);
  const S z = r * r;
  // (sin(r) - r) / r^3 and (cos(r) - 1 + r^2/2) / r^4 in z on |r| <= pi/4; errors 2^-68.8 and 2^-64.2
  const S s = polynomial(z, -0.16666666666666666641, 0.0083333333333333228155, -0.0001984126984125512166, 2.7557319214219043212e-6,
                         -2.5052104919192297899e-8, 1.6058367615028691785e-10, -7.5787477220901797397e-13);
  const S c = polynomial(z, 0.041666666666666599477, -0.00138888888888741241, 0.00002480158728948227279, -2.7557314352350868765e-7,
                         2.0875723274654535878e-9, -1.1359647827745044068e-11);
  const S sine = mul_add(r * z, s, r);
  const S cosine = 1 - (S(0.5) * z - z * z * c);
  const auto turn = hn::Add(to_bits(shifted), bits_of<double>(quarter_turns));
  const auto odd = hn::Eq(hn::And(turn, bits_of<double>(1)), bits_of<double>(1));
  const S magnitude = hn::IfThenElse(hn::RebindMask(S::D(), odd), cosine.v, sine.v);
  const S sign = from_bits<double>(hn::ShiftLeft<63>(hn::ShiftRight<1>(turn)));  // minus in the third and fourth quarter
  return hn::Xor(magnitude.v, sign.v);
}

}  // namespace detail

/// Hyperbolic tangent.
template <class T>
HWY_INLINE Simd<T> tanh(Simd<T> x) {
  const Simd<T> a = abs(x);
  const Simd<T> z = a * a;
  const Simd<T> small = mul_add(a * z, detail::tanh_tail(z), a);
  const Simd<T> large = 1 - 2 / (exp(a + a) + 1);
  return copy_sign(select(a < T(0.625), small, large), x);
}

/// The error function, 2/sqrt(pi) times the integral of e^(-t^2) from 0 to x.
template <class T>
HWY_INLINE Simd<T> erf(Simd<T> x) {
  const Simd<T> a = detail::limit(abs(x), T(0), detail::Format<T>::erf_highest);
  const Simd<T> small = mul_add(a, detail::erf_tail(a * a), a);
  const Simd<T> large = 1 - exp_nonpositive(detail::log_erfc(a));
  return copy_sign(select(a < 1, small, large), x);
}

/// 1 / (1 + e^-x), without overflow at either end.
template <class T>
HWY_INLINE Simd<T> sigmoid(Simd<T> x) {
  const Simd<T> z = exp(-abs(x));
  return select(x >= 0, 1, z) / (1 + z);
}

/// log(1 + e^x), without overflow.
template <class T>
HWY_INLINE Simd<T> softplus(Simd<T> x) {
  return max(x, 0) + log1p(exp(-abs(x)));
}

/// The derivative of x sigmoid(g(x)), g(x) = sqrt(8 / pi) (x + 0.044715 x^3): GELU's tanh form.
template <class T>
HWY_INLINE Simd<T> gelu_tanh_slope(Simd<T> x) {
  const Simd<T> t = detail::limit(x, T(-50), T(50));  // 0 and 1 beyond, where powers of x would overflow
  const Simd<T> s = sigmoid(T(1.5957691216057308) * (t + T(0.044715) * t * t * t));
  return s * (1 + t * (1 - s) * T(1.5957691216057308) * (1 + T(0.134145) * t * t));
}

HWY_INLINE Simd<double> sin(Simd<double> x) {
  const auto far = !(abs(x) <= 0x1p20);
  const Simd<double> y = select(x == 0, x, detail::sin_shifted(x, 0));
  if (!any(far)) return y;
  return select(far, detail::by_lane([](double lane) HWY_ATTR { return std::sin(lane); }, x), y);
}
HWY_INLINE Simd<double> cos(Simd<double> x) {
  const auto far = !(abs(x) <= 0x1p20);
  const Simd<double> y = detail::sin_shifted(x, 1);
  if (!any(far)) return y;
  return select(far, detail::by_lane([](double lane) HWY_ATTR { return std::cos(lane); }, x), y);
}
HWY_INLINE Simd<float> sin(Simd<float> x) {
  return detail::in_double([](Simd<double> lanes) HWY_ATTR { return sin(lanes); }, x);
}
HWY_INLINE Simd<float> cos(Simd<float> x) {
  return detail::in_double([](Simd<double> lanes) HWY_ATTR { return cos(lanes); }, x);
}

namespace detail {

/// x^y: the magnitude by e^(y log|x|), which in double is good for float results.
HWY_INLINE Simd<double> pow_for_float(Simd<double> x, Simd<double> y) {
  using S = Simd<double>;
  const S magnitude = select(y == 0 || abs(x) == 1, 1, exp(y * log(abs(x))));
  const auto whole = floor(y) == y;
  const auto odd = whole && floor(y * 0.5) != y * 0.5;
  const auto negative = copy_sign(1, x) < 0;
  const S with_sign = select(negative && odd, -magnitude, magnitude);
  constexpr double inf = std::numeric_limits<double>::infinity();
  const S real = select(x < 0 && x > -inf && !whole, std::numeric_limits<double>::quiet_NaN(), with_sign);
  return select(y == 0 || x == 1, 1, select(is_nan(y), y, real));
}

}  // namespace detail

/// x^y with the C library's special cases; a negative x has real powers for whole y only.
HWY_INLINE Simd<float> pow(Simd<float> x, Simd<float> y) {
  return detail::in_double([](Simd<double> a, Simd<double> b) HWY_ATTR { return detail::pow_for_float(a, b); }, x, y);
}
HWY_INLINE Simd<double> pow(Simd<double> x, Simd<double> y) {
  return detail::by_lane([](double a, double b) HWY_ATTR { return std::pow(a, b); }, x, y);
}

}  // namespace HWY_NAMESPACE
}  // namespace weft
HWY_AFTER_NAMESPACE();

#endif  // WEFT_CORE_CPU_MATH_INL_H_
