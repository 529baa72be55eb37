#include "weft/train/adam.h"

#include <cmath>

#include "weft/core/kernels.h"

namespace weft {
namespace {

AdamOptions as_adam(const AdamWOptions& o) {
  return {.lr = o.lr,
          .beta1 = o.beta1,
          .beta2 = o.beta2,
          .eps = o.eps,
          .weight_decay = o.weight_decay,
          .decoupled = true,
          .amsgrad = o.amsgrad,
          .maximize = o.maximize};
}

}  // namespace

Adam::Adam(std::vector<Tensor> parameters, const AdamOptions& options)
    : Adam(std::vector<ParameterGroup>{{std::move(parameters), options.lr, options.weight_decay}}, options) {}

Adam::Adam(const std::vector<ParameterGroup>& groups, const AdamOptions& options)
    : Optimizer("adam", groups, {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "master"}), options_(options) {
  WEFT_CHECK(options.beta1 >= 0 && options.beta1 < 1 && options.beta2 >= 0 && options.beta2 < 1,
             "adam: betas should be in [0, 1), got {} and {}", options.beta1, options.beta2);
  WEFT_CHECK(std::isfinite(options.eps) && options.eps >= 0, "adam: eps should be finite and at least 0, got {}", options.eps);
}

void Adam::update(const GradScale& scale) {
  std::vector<ParameterSlot> slots = slots_with_gradient(options_.amsgrad ? 3 : 2);
  if (slots.empty()) return;
  const AdamRule rule{.beta1 = options_.beta1,
                      .beta2 = options_.beta2,
                      .eps = options_.eps,
                      .decoupled = options_.decoupled,
                      .amsgrad = options_.amsgrad,
                      .grad_scale = options_.maximize ? -scale.factor : scale.factor,
                      .grad_scale_tensor = scale.tensor,
                      .skip_nonfinite = scale.tensor.defined()};
  WEFT_LAUNCH(slots[0].value, adam_step(slots, rule));
}

AdamW::AdamW(std::vector<Tensor> parameters, const AdamWOptions& options) : Adam(std::move(parameters), as_adam(options)) {}
AdamW::AdamW(const std::vector<ParameterGroup>& groups, const AdamWOptions& options) : Adam(groups, as_adam(options)) {}

}  // namespace weft
