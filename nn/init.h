// Weight initializers. Each returns a fresh parameter, drawn from default_generator().
#pragma once

#include "weft/autograd/graph.h"

namespace weft {

/// How a layer fills its weight; its bias is zero except for fan_in, where it is drawn like the weight.
enum class Init {
  /// U(-1/sqrt(in), 1/sqrt(in)): PyTorch's default for linear layers.
  fan_in,
  /// Glorot & Bengio 2010: U(-a, a) with a = sqrt(6 / (in + out)).
  xavier,
  /// N(0, std^2).
  normal,
  zeros,
};

namespace init {

Tensor uniform(const Shape& shape, double bound);
Tensor normal(const Shape& shape, double std);
Tensor constant(const Shape& shape, double value);
/// A weight [out, in].
Tensor weight(Init how, int64_t out, int64_t in, double std);
/// The bias [out] that belongs to it.
Tensor bias(Init how, int64_t out, int64_t in);

}  // namespace init
}  // namespace weft
