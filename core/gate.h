// What the first half of a gated unit goes through: y = gate(h1) * h2.
#pragma once

#include <cstdint>

namespace weft {

enum class Gate : uint8_t { gelu, silu, sigmoid, relu };

}  // namespace weft
