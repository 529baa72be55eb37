#include "weft/train/loss_scale.h"

#include <cmath>

#include "weft/autograd/ops.h"

namespace weft {

LossScale::LossScale(Device device, const LossScaleOptions& options) : options_(options) {
  WEFT_CHECK(std::isfinite(options.initial) && options.initial > 0 && std::isfinite(options.growth) && options.growth >= 1 &&
                 options.backoff > 0 && options.backoff <= 1 && options.growth_interval >= 1,
             "LossScale: expected initial > 0, growth >= 1, backoff in (0, 1] and growth_interval >= 1, got {}, {}, {} and {}",
             options.initial, options.growth, options.backoff, options.growth_interval);
  const TensorOptions on_device{.dtype = DType::float64, .device = device};
  scale_ = full({}, options.initial, on_device);
  good_steps_ = zeros({}, on_device);
  skipped_ = zeros({}, on_device);
}

Tensor LossScale::apply(const Tensor& loss) const { return loss * to(scale_, loss.dtype()); }

Tensor LossScale::remove(const Tensor& x) const {
  NoGrad no_grad;
  return x / to(scale_, x.dtype());
}

void LossScale::update(const Tensor& norm) {
  NoGrad no_grad;
  const Tensor zero = zeros_like(scale_), one = ones({}, scale_.options());
  const Tensor good = equal(to(norm - norm, DType::float64), zero);  // false for NaN and infinity
  const Tensor steps = where(good, good_steps_ + 1.0, zero);
  const Tensor grows = greater_equal(steps, full({}, static_cast<double>(options_.growth_interval), scale_.options()));
  scale_ = scale_ * where(good, where(grows, one * options_.growth, one), one * options_.backoff);
  good_steps_ = where(grows, zero, steps);
  skipped_ = skipped_ + where(good, zero, one);
}

StateDict LossScale::state_dict() const { return {{"scale", scale_}, {"good_steps", good_steps_}, {"skipped_steps", skipped_}}; }

void LossScale::load_state_dict(const StateDict& state) {
  StateDict own = state_dict();
  WEFT_CHECK(state.size() == own.size(), "LossScale: expected scale, good_steps and skipped_steps, got {} tensors", state.size());
  for (const auto& [name, value] : state) {
    bool known = false;
    for (auto& [own_name, tensor] : own) {
      if (own_name != name) continue;
      WEFT_CHECK(value.shape() == Shape() && value.dtype() == DType::float64, "LossScale: {} should be a float64 scalar, got {}", name,
                 value);
      tensor.copy_from(value);
      known = true;
    }
    WEFT_CHECK(known, "LossScale: \"{}\" does not belong here; expected scale, good_steps and skipped_steps", name);
  }
}

}  // namespace weft
