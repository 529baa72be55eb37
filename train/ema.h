// Exponential moving average of weights: average = decay average + (1 - decay) weight after every step. Averages start as the weights.
#pragma once

#include "weft/nn/module.h"

namespace weft {

class Ema {
 public:
  /// Of the parameters as they are now: build it after convert(model, ...), which makes new ones.
  explicit Ema(std::vector<Tensor> parameters, double decay = 0.999);

  /// After an optimizer step.
  void update();

  const std::vector<Tensor>& parameters() const { return parameters_; }
  /// In float32 where the parameters are in half precision.
  const std::vector<Tensor>& averages() const { return averages_; }
  /// "0", "1", ... in the order of the parameters, sharing memory.
  StateDict state_dict() const;
  void load_state_dict(const StateDict& state);

 private:
  std::vector<Tensor> parameters_, averages_;
  double decay_;
};

/// While it lives, the parameters hold their averages: evaluate, do not train.
class AveragedWeights {
 public:
  explicit AveragedWeights(const Ema& ema);
  ~AveragedWeights();
  AveragedWeights(const AveragedWeights&) = delete;
  AveragedWeights& operator=(const AveragedWeights&) = delete;

 private:
  std::vector<Tensor> parameters_, weights_;
};

}  // namespace weft
