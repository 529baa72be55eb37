// Stochastic gradient descent, with momentum.
//
//     g += weight_decay p
//     b = momentum b + (1 - dampening) g (b = g at the first step)          g = b, or g + momentum b (nesterov)
//     p -= lr g
#pragma once

#include "weft/train/optimizer.h"

namespace weft {

struct SgdOptions {
  double lr = 1e-3, momentum = 0, dampening = 0;
  double weight_decay = 0;
  bool nesterov = false;
  /// Ascend instead.
  bool maximize = false;
};

class Sgd : public Optimizer {
 public:
  /// One group with the options' lr and weight_decay.
  explicit Sgd(std::vector<Tensor> parameters, const SgdOptions& options = {});
  /// The groups' lr and weight_decay count, not the options'.
  explicit Sgd(const std::vector<ParameterGroup>& groups, const SgdOptions& options = {});

 private:
  void update(const GradScale& scale) override;

  SgdOptions options_;
};

}  // namespace weft
