#include "weft/core/half.h"

#include <cmath>

namespace weft {

float16::float16(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (u >> 16) & 0x8000U;
  const uint32_t magnitude = u & 0x7fffffffU;
  uint32_t half;
  if (magnitude > 0x7f800000U) {
    half = 0x7e00U | ((magnitude >> 13) & 0x3ffU);  // NaN keeps its payload and becomes quiet
  } else if (magnitude >= 0x477ff000U) {
    half = 0x7c00U;  // rounds to infinity
  } else if (magnitude >= 0x38800000U) {
    const uint32_t rebased = magnitude - 0x38000000U;  // exponent bias 127 -> 15
    half = (rebased + 0xfffU + ((rebased >> 13) & 1U)) >> 13;
  } else {
    // Subnormal: in units of 2^-24, where float addition itself rounds to nearest even.
    const float scaled = std::fabs(value) + 0.5F;
    half = std::bit_cast<uint32_t>(scaled) - 0x3f000000U;
  }
  bits = static_cast<uint16_t>(sign | half);
}

float16::operator float() const {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
  const uint32_t magnitude = bits & 0x7fffU;
  if (magnitude >= 0x7c00U) return std::bit_cast<float>(sign | 0x7f800000U | ((magnitude & 0x3ffU) << 13));
  if (magnitude >= 0x400U) return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000U));
  const float value = static_cast<float>(magnitude) * 0x1p-24F;
  return sign != 0 ? -value : value;
}

bfloat16::bfloat16(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  if ((u & 0x7fffffffU) > 0x7f800000U) {
    bits = static_cast<uint16_t>((u >> 16) | 0x40U);  // quiet NaN
  } else {
    bits = static_cast<uint16_t>((u + 0x7fffU + ((u >> 16) & 1U)) >> 16);
  }
}

}  // namespace weft
