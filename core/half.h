// float16 and bfloat16 as storage types: two bytes and exact conversions (round to nearest even).
#pragma once

#include <bit>
#include <cstdint>

namespace weft {

/// IEEE 754 binary16: 1 sign, 5 exponent, 10 mantissa bits.
struct float16 {
  uint16_t bits = 0;
  float16() = default;
  explicit float16(float value);
  explicit operator float() const;
  bool operator==(const float16&) const = default;
};

/// The upper half of a float32.
struct bfloat16 {
  uint16_t bits = 0;
  bfloat16() = default;
  explicit bfloat16(float value);
  explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
  bool operator==(const bfloat16&) const = default;
};

}  // namespace weft
