// Linear: y = x weight^T + bias.
#pragma once

#include <vector>

#include "weft/autograd/ops.h"
#include "weft/nn/init.h"

namespace weft {

struct LinearOptions {
  int64_t in = 0;
  int64_t out = 0;
  bool bias = true;
  Init init = Init::fan_in;
  /// For Init::normal.
  double std = 0.02;
};

struct Linear {
  Tensor weight;  // [out, in]
  Tensor bias;    // [out], undefined without

  Linear() = default;
  explicit Linear(const LinearOptions& options);

  /// x [.., in] -> [.., out].
  Tensor operator()(const Tensor& x, Location at = Location::current()) const { return linear(x, weight, bias, at); }
  /// The output in pieces of the given sizes, each a tensor of its own: one product per block of rows of the weight, no copy.
  std::vector<Tensor> blocks(const Tensor& x, const std::vector<int64_t>& sizes, Location at = Location::current()) const {
    return linear_blocks(x, weight, bias, sizes, at);
  }

  void visit(auto&& f) {
    f("weight", weight);
    f("bias", bias);
  }
};

}  // namespace weft
