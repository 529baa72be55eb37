#include "weft/train/sgd.h"

#include <cmath>

#include "weft/core/kernels.h"

namespace weft {

Sgd::Sgd(std::vector<Tensor> parameters, const SgdOptions& options)
    : Sgd(std::vector<ParameterGroup>{{std::move(parameters), options.lr, options.weight_decay}}, options) {}

Sgd::Sgd(const std::vector<ParameterGroup>& groups, const SgdOptions& options)
    : Optimizer("sgd", groups, {"momentum_buffer", "master"}), options_(options) {
  WEFT_CHECK(options.momentum >= 0 && options.momentum <= 1, "sgd: momentum should be in [0, 1], got {}", options.momentum);
  WEFT_CHECK(std::isfinite(options.dampening), "sgd: dampening should be finite, got {}", options.dampening);
  WEFT_CHECK(!options.nesterov || (options.momentum > 0 && options.dampening == 0),
             "sgd: nesterov needs momentum above 0 and dampening 0, got {} and {}", options.momentum, options.dampening);
}

void Sgd::update(const GradScale& scale) {
  std::vector<ParameterSlot> slots = slots_with_gradient(options_.momentum != 0 ? 1 : 0);
  if (slots.empty()) return;
  const SgdRule rule{.momentum = options_.momentum,
                     .dampening = options_.dampening,
                     .nesterov = options_.nesterov,
                     .grad_scale = options_.maximize ? -scale.factor : scale.factor,
                     .grad_scale_tensor = scale.tensor,
                     .skip_nonfinite = scale.tensor.defined()};
  WEFT_LAUNCH(slots[0].value, sgd_step(slots, rule));
}

}  // namespace weft
