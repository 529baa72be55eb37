#include "weft/nn/init.h"

#include <cmath>

#include "weft/core/random.h"

namespace weft::init {

Tensor uniform(const Shape& shape, double bound) { return parameter(rand(shape, -bound, bound)); }
Tensor normal(const Shape& shape, double std) { return parameter(randn(shape, 0, std)); }
Tensor constant(const Shape& shape, double value) { return parameter(full(shape, value)); }

Tensor weight(Init how, int64_t out, int64_t in, double std) {
  switch (how) {
    case Init::fan_in:
      return uniform({out, in}, 1 / std::sqrt(static_cast<double>(in)));
    case Init::xavier:
      return uniform({out, in}, std::sqrt(6.0 / static_cast<double>(in + out)));
    case Init::normal:
      return normal({out, in}, std);
    case Init::zeros:
      return constant({out, in}, 0);
  }
  fail("init: unknown initializer {}", static_cast<int>(how));
}

Tensor bias(Init how, int64_t out, int64_t in) {
  return how == Init::fan_in ? uniform({out}, 1 / std::sqrt(static_cast<double>(in))) : constant({out}, 0);
}

}  // namespace weft::init
