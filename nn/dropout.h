// Dropout: in training, zeroes each element with probability p and scales the rest by 1 / (1 - p); in evaluation, does nothing.
#pragma once

#include "weft/autograd/ops.h"

namespace weft {

struct DropoutOptions {
  double p = 0.1;
};

struct Dropout {
  double p = 0;
  /// Switched by set_training.
  bool training = true;

  Dropout() = default;
  explicit Dropout(const DropoutOptions& options);
  Tensor operator()(const Tensor& x, Location at = Location::current()) const;
  bool active() const { return training && p > 0; }
  void visit(auto&&) {}
};

}  // namespace weft
