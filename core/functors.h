// The rows of elementwise.def as types. Every row NAME becomes `NAME_formula` with its value, its slopes, and what the slopes read:
// kernels load, and the graph keeps, only what a derivative names.
//
// `weft::formulas` holds them for host and device code in scalar T. CPU kernels expand the table once more per instruction set, where T
// is a Simd vector (core/cpu/elementwise-inl.h).
#pragma once

#include <string_view>

#include "weft/core/math.h"

namespace weft {

namespace detail {
constexpr bool in_identifier(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'; }
}  // namespace detail

/// Does the text of a formula name the variable? formula_reads("exp(-(y * y))", 'x') is false: the x belongs to exp.
constexpr bool formula_reads(std::string_view formula, char variable) {
  for (size_t i = 0; i < formula.size(); ++i) {
    if (formula[i] != variable) continue;
    const bool starts = i == 0 || !detail::in_identifier(formula[i - 1]);
    const bool ends = i + 1 == formula.size() || !detail::in_identifier(formula[i + 1]);
    if (starts && ends) return true;
  }
  return false;
}

/// A slope of one: the gradient passes through, and no kernel runs.
constexpr bool formula_is_one(std::string_view formula) { return formula == "T(1)"; }

}  // namespace weft

#define WEFT_FORMULA \
  template <class T> \
  WEFT_HOST_DEVICE static inline __attribute__((always_inline)) T

/// What one slope of a formula reads. `v0`, `v1` are its variables: x and p, or a and b.
#define WEFT_SLOPE_FACTS(slope, formula, v0, v1)                             \
  static constexpr bool slope##_reads_##v0 = formula_reads(formula, #v0[0]); \
  static constexpr bool slope##_reads_##v1 = formula_reads(formula, #v1[0]); \
  static constexpr bool slope##_reads_y = formula_reads(formula, 'y');       \
  static constexpr bool slope##_is_one = formula_is_one(formula);

#define WEFT_UNARY_FORMULA(name, f, dydx, low, high)                                \
  struct name##_formula {                                                           \
    static constexpr double lowest = low, highest = high;                           \
    WEFT_SLOPE_FACTS(slope, #dydx, x, p)                                            \
    WEFT_FORMULA value(T x) { return f; }                                           \
    WEFT_FORMULA slope([[maybe_unused]] T x, [[maybe_unused]] T y) { return dydx; } \
  };

#define WEFT_UNARY_P_FORMULA(name, f, dydx, low, high, sample_p)                                          \
  struct name##_formula {                                                                                 \
    static constexpr double lowest = low, highest = high, parameter = sample_p;                           \
    WEFT_SLOPE_FACTS(slope, #dydx, x, p)                                                                  \
    WEFT_FORMULA value(T x, T p) { return f; }                                                            \
    WEFT_FORMULA slope([[maybe_unused]] T x, [[maybe_unused]] T y, [[maybe_unused]] T p) { return dydx; } \
  };

#define WEFT_BINARY_FORMULA(name, f, dyda, dydb, low, high)                                                 \
  struct name##_formula {                                                                                   \
    static constexpr double lowest = low, highest = high;                                                   \
    WEFT_SLOPE_FACTS(slope_a, #dyda, a, b)                                                                  \
    WEFT_SLOPE_FACTS(slope_b, #dydb, a, b)                                                                  \
    WEFT_FORMULA value(T a, T b) { return f; }                                                              \
    WEFT_FORMULA slope_a([[maybe_unused]] T a, [[maybe_unused]] T b, [[maybe_unused]] T y) { return dyda; } \
    WEFT_FORMULA slope_b([[maybe_unused]] T a, [[maybe_unused]] T b, [[maybe_unused]] T y) { return dydb; } \
  };

#define WEFT_COMPARE_FORMULA(name, f)                     \
  struct name##_formula {                                 \
    template <class T>                                    \
    WEFT_HOST_DEVICE static inline bool value(T a, T b) { \
      return f;                                           \
    }                                                     \
  };

namespace weft::formulas {

#define UNARY WEFT_UNARY_FORMULA
#define UNARY_P WEFT_UNARY_P_FORMULA
#define BINARY WEFT_BINARY_FORMULA
#define COMPARE WEFT_COMPARE_FORMULA
#include "weft/core/elementwise.def"
#undef UNARY
#undef UNARY_P
#undef BINARY
#undef COMPARE

}  // namespace weft::formulas
