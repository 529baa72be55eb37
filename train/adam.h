// Adam and AdamW.
//
// D. Kingma, J. Ba: Adam: a method for stochastic optimization (2014). I. Loshchilov, F. Hutter: Decoupled weight decay (2017).
// At step t, with gradient g of parameter p:
//
//     decoupled: p *= 1 - lr weight_decay          otherwise: g += weight_decay p
//     m = beta1 m + (1 - beta1) g                  v = beta2 v + (1 - beta2) g^2          amsgrad: v' = max(v', v), else v' = v
//     p -= lr m / (1 - beta1^t) / (sqrt(v' / (1 - beta2^t)) + eps)
#pragma once

#include "weft/train/optimizer.h"

namespace weft {

struct AdamOptions {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double weight_decay = 0;
  /// Weight decay acts on the parameter itself (AdamW) instead of on the gradient.
  bool decoupled = false;
  bool amsgrad = false;
  /// Ascend instead.
  bool maximize = false;
};

class Adam : public Optimizer {
 public:
  /// One group with the options' lr and weight_decay.
  explicit Adam(std::vector<Tensor> parameters, const AdamOptions& options = {});
  /// The groups' lr and weight_decay count, not the options'.
  explicit Adam(const std::vector<ParameterGroup>& groups, const AdamOptions& options = {});

 private:
  void update(const GradScale& scale) override;

  AdamOptions options_;
};

struct AdamWOptions {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double weight_decay = 0.01;
  bool amsgrad = false;
  bool maximize = false;
};

/// Adam with decoupled weight decay.
class AdamW : public Adam {
 public:
  explicit AdamW(std::vector<Tensor> parameters, const AdamWOptions& options = {});
  explicit AdamW(const std::vector<ParameterGroup>& groups, const AdamWOptions& options = {});
};

}  // namespace weft
