// Scalar maths under the names that the formulas of elementwise.def use; core/cpu/simd-inl.h has the same names for SIMD vectors.
#pragma once

#include <cmath>
#include <type_traits>

#ifndef WEFT_HOST_DEVICE
#ifdef __CUDACC__
#define WEFT_HOST_DEVICE __host__ __device__
#else
#define WEFT_HOST_DEVICE
#endif
#endif

namespace weft {

template <class T>
concept Real = std::is_same_v<T, float> || std::is_same_v<T, double>;
template <class T>
concept Number = std::is_arithmetic_v<T>;

// Templates, so that an unqualified exp(0.5) under `using namespace weft` still means the C library's.
// clang-format off
template <Real T> WEFT_HOST_DEVICE T abs(T x) { return std::fabs(x); }
template <Real T> WEFT_HOST_DEVICE T sqrt(T x) { return std::sqrt(x); }
template <Real T> WEFT_HOST_DEVICE T rsqrt(T x) { return T(1) / std::sqrt(x); }
template <Real T> WEFT_HOST_DEVICE T square(T x) { return x * x; }
template <Real T> WEFT_HOST_DEVICE T floor(T x) { return std::floor(x); }
template <Real T> WEFT_HOST_DEVICE T round(T x) { return std::nearbyint(x); }  // halves to even
template <Real T> WEFT_HOST_DEVICE T exp(T x) { return std::exp(x); }
template <Real T> WEFT_HOST_DEVICE T expm1(T x) { return std::expm1(x); }
template <Real T> WEFT_HOST_DEVICE T log(T x) { return std::log(x); }
template <Real T> WEFT_HOST_DEVICE T log1p(T x) { return std::log1p(x); }
template <Real T> WEFT_HOST_DEVICE T tanh(T x) { return std::tanh(x); }
template <Real T> WEFT_HOST_DEVICE T erf(T x) { return std::erf(x); }
template <Real T> WEFT_HOST_DEVICE T sin(T x) { return std::sin(x); }
template <Real T> WEFT_HOST_DEVICE T cos(T x) { return std::cos(x); }
template <Real T> WEFT_HOST_DEVICE bool is_nan(T x) { return x != x; }
// clang-format on

/// e^x for x <= 0; the SIMD version flushes results below the smallest normal number to zero.
template <Real T>
WEFT_HOST_DEVICE T exp_nonpositive(T x) {
  return std::exp(x);
}

/// 1 / (1 + e^-x), without overflow at either end.
template <Real T>
WEFT_HOST_DEVICE T sigmoid(T x) {
  const T z = std::exp(-std::fabs(x));
  return (x >= T(0) ? T(1) : z) / (T(1) + z);
}

/// log(1 + e^x), without overflow.
template <Real T>
WEFT_HOST_DEVICE T softplus(T x) {
  return (x > T(0) ? x : x != x ? x : T(0)) + std::log1p(std::exp(-std::fabs(x)));
}

/// The derivative of x sigmoid(g(x)), g(x) = sqrt(8 / pi) (x + 0.044715 x^3): GELU's tanh form.
template <Real T>
WEFT_HOST_DEVICE T gelu_tanh_slope(T x) {
  const T t = x < T(-50) ? T(-50) : x > T(50) ? T(50) : x;  // 0 and 1 beyond, where powers of x would overflow
  const T s = sigmoid(T(1.5957691216057308) * (t + T(0.044715) * t * t * t));
  return s * (T(1) + t * (T(1) - s) * T(1.5957691216057308) * (T(1) + T(0.134145) * t * t));
}

/// a * b + c, rounded once where the machine can.
template <Real T>
WEFT_HOST_DEVICE T mul_add(T a, T b, T c) {
  return std::fma(a, b, c);
}

// Two arguments may be of two types (a literal beside a T): the result has their common type.
template <Number A, Number B>
WEFT_HOST_DEVICE std::common_type_t<A, B> select(bool condition, A a, B b) {
  using T = std::common_type_t<A, B>;
  return condition ? static_cast<T>(a) : static_cast<T>(b);
}
/// Unlike std::fmax: NaN if either argument is.
template <Number A, Number B>
WEFT_HOST_DEVICE std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  const T x = static_cast<T>(a), y = static_cast<T>(b);
  return x > y || x != x ? x : y;
}
template <Number A, Number B>
WEFT_HOST_DEVICE std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  const T x = static_cast<T>(a), y = static_cast<T>(b);
  return x < y || x != x ? x : y;
}
template <Number A, Number B>
WEFT_HOST_DEVICE std::common_type_t<A, B> pow(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(std::pow(static_cast<T>(a), static_cast<T>(b)));
}

}  // namespace weft
