#include "weft/train/ema.h"

#include "weft/autograd/ops.h"
#include "weft/core/kernels.h"
#include "weft/train/optimizer.h"

namespace weft {

Ema::Ema(std::vector<Tensor> parameters, double decay) : parameters_(std::move(parameters)), decay_(decay) {
  WEFT_CHECK(decay >= 0 && decay <= 1, "ema: decay should be in [0, 1], got {}", decay);
  check_one_device("ema", parameters_);
  for (const Tensor& p : parameters_) {
    const Tensor weight = detach(p);
    averages_.push_back(size_of(p.dtype()) == 2 ? to(weight, DType::float32) : clone(weight));
  }
}

void Ema::update() {
  if (parameters_.empty()) return;
  std::vector<ParameterSlot> slots;
  for (size_t i = 0; i < parameters_.size(); ++i) slots.push_back({.value = parameters_[i], .moment1 = averages_[i]});
  WEFT_LAUNCH(slots[0].value, ema_step(slots, decay_));
}

AveragedWeights::AveragedWeights(const Ema& ema) : parameters_(ema.parameters()) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    weights_.push_back(clone(parameters_[i]));
    parameters_[i].copy_from(to(ema.averages()[i], parameters_[i].dtype()));
  }
}

AveragedWeights::~AveragedWeights() {
  for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i].copy_from(weights_[i]);
}

StateDict Ema::state_dict() const {
  StateDict state;
  for (size_t i = 0; i < averages_.size(); ++i) state.emplace_back(std::to_string(i), averages_[i]);
  return state;
}

void Ema::load_state_dict(const StateDict& state) {
  WEFT_CHECK(state.size() == averages_.size(), "ema: the state has {} averages for {} parameters", state.size(), averages_.size());
  for (const auto& [name, value] : state) {
    size_t i = 0;
    while (i < averages_.size() && std::to_string(i) != name) ++i;
    WEFT_CHECK(i < averages_.size(), "ema: the state has an average \"{}\"; expected \"0\" to \"{}\"", name, averages_.size() - 1);
    WEFT_CHECK(value.shape() == averages_[i].shape(), "ema: average {} should be {}, got {}", i, averages_[i].shape(), value.shape());
    averages_[i].copy_from(value);
  }
}

}  // namespace weft
