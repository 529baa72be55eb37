// float16 and bfloat16 as storage types: two bytes and exact conversions (round to nearest even, NaN stays NaN and becomes quiet).
#pragma once

#include <bit>
#include <cstdint>

namespace weft {

namespace detail {
/// `value` rounded to odd: rounding the result once more, to a half type, is then as good as rounding `value` itself.
constexpr float narrow_to_odd(double value) {
  const float near = static_cast<float>(value);
  const uint32_t bits = std::bit_cast<uint32_t>(near);
  const double back = near;
  if (back == value || back != back || (bits & 1U) != 0) return near;
  const bool too_small = (back < 0 ? -back : back) < (value < 0 ? -value : value);
  return std::bit_cast<float>(too_small ? bits + 1 : bits - 1);
}
}  // namespace detail

/// IEEE 754 binary16: 1 sign, 5 exponent, 10 mantissa bits.
struct float16 {
  uint16_t bits = 0;

  float16() = default;
  constexpr explicit float16(double value) : float16(detail::narrow_to_odd(value)) {}
  constexpr explicit float16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    const uint32_t magnitude = u & 0x7fffffffU;
    uint32_t half = 0;
    if (magnitude > 0x7f800000U) {
      half = 0x7e00U | ((magnitude >> 13) & 0x3ffU);  // NaN keeps its payload
    } else if (magnitude >= 0x477ff000U) {
      half = 0x7c00U;  // rounds to infinity
    } else if (magnitude >= 0x38800000U) {
      const uint32_t rebased = magnitude - 0x38000000U;  // exponent bias 127 -> 15
      half = (rebased + 0xfffU + ((rebased >> 13) & 1U)) >> 13;
    } else {
      // Subnormal: in units of 2^-24, where float addition itself rounds to nearest even.
      half = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3f000000U;
    }
    bits = static_cast<uint16_t>(((u >> 16) & 0x8000U) | half);
  }

  constexpr explicit operator float() const {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
    const uint32_t magnitude = bits & 0x7fffU;
    if (magnitude > 0x7c00U) return std::bit_cast<float>(sign | 0x7fc00000U | (magnitude << 13));
    if (magnitude == 0x7c00U) return std::bit_cast<float>(sign | 0x7f800000U);
    if (magnitude >= 0x400U) return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000U));
    const float value = static_cast<float>(magnitude) * 0x1p-24F;
    return sign != 0 ? -value : value;
  }
  constexpr explicit operator double() const { return static_cast<float>(*this); }

  bool operator==(const float16&) const = default;
};

/// The upper half of a float32.
struct bfloat16 {
  uint16_t bits = 0;

  bfloat16() = default;
  constexpr explicit bfloat16(double value) : bfloat16(detail::narrow_to_odd(value)) {}
  constexpr explicit bfloat16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (u + 0x7fffU + ((u >> 16) & 1U)) >> 16;
    const uint32_t quiet_nan = (u >> 16) | 0x40U;
    bits = static_cast<uint16_t>((u & 0x7fffffffU) > 0x7f800000U ? quiet_nan : rounded);
  }

  constexpr explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
  constexpr explicit operator double() const { return static_cast<float>(*this); }

  bool operator==(const bfloat16&) const = default;
};

}  // namespace weft
