#include "weft/train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "weft/autograd/ops.h"
#include "weft/core/kernels.h"

namespace weft {

void check_one_device(const char* op, std::span<const Tensor> parameters) {
  for (const Tensor& p : parameters) {
    WEFT_CHECK(p.device() == parameters[0].device(), "{}: parameters are on {} and {}; move the model to one device first", op,
               parameters[0].device(), p.device());
  }
}

Optimizer::Optimizer(const char* name, const std::vector<ParameterGroup>& groups, std::vector<std::string> moment_names)
    : name_(name), moment_names_(std::move(moment_names)) {
  std::set<const Node*> seen;
  for (const ParameterGroup& group : groups) {
    groups_.push_back({.lr = group.lr, .weight_decay = group.weight_decay});
    check_settings(groups_.back());
    for (const Tensor& p : group.parameters) {
      WEFT_CHECK(is_parameter(p), "{}: {} is not a parameter; make it one with parameter(x)", name_, p);
      WEFT_CHECK(seen.insert(p.node().get()).second, "{}: parameter {} {} is given twice", name_, parameters_.size(), p.shape());
      parameters_.push_back(p);
      group_of_.push_back(groups_.size() - 1);
      states_.push_back({.moments = std::vector<Tensor>(moment_names_.size())});
    }
  }
  WEFT_CHECK(!parameters_.empty(), "{}: no parameters given", name_);
  check_one_device(name, parameters_);
}

void Optimizer::step(const Tensor& grad_scale) {
  WEFT_CHECK(grad_scale.defined() && grad_scale.numel() == 1 && grad_scale.dtype() == DType::float64 &&
                 grad_scale.device() == parameters_[0].device(),
             "{}: the scale of the gradients should be a float64 scalar on {}, got {}", name_, parameters_[0].device(), grad_scale);
  update({.factor = 1, .tensor = grad_scale});
}

void Optimizer::zero_grad() {
  for (const Tensor& p : parameters_) weft::zero_grad(p);
}

void Optimizer::set_lr(double lr) {
  check_settings({.lr = lr, .weight_decay = 0});
  for (GroupSettings& group : groups_) group.lr = lr;
}

void Optimizer::check_settings(const GroupSettings& group) const {
  WEFT_CHECK(std::isfinite(group.lr) && group.lr >= 0, "{}: lr should be finite and at least 0, got {}", name_, group.lr);
  WEFT_CHECK(std::isfinite(group.weight_decay) && group.weight_decay >= 0, "{}: weight_decay should be finite and at least 0, got {}",
             name_, group.weight_decay);
}

// Steps without any gradient do nothing; when there has never been one, or convert has replaced the model's parameters, the model trains
// other tensors than these.
void Optimizer::check_some_gradient() const {
  const auto has_stepped = [](const State& state) { return state.step.defined(); };
  const auto has_gradient = [](const Tensor& p) { return grad(p).defined(); };
  if (std::any_of(parameters_.begin(), parameters_.end(), has_gradient)) return;
  WEFT_CHECK(std::none_of(parameters_.begin(), parameters_.end(), detail::is_replaced),
             "{}: none of the {} parameters has a gradient, and convert(model, ...) has made new ones since; build the optimizer after it",
             name_, parameters_.size());
  WEFT_CHECK(std::any_of(states_.begin(), states_.end(), has_stepped),
             "{}: none of the {} parameters has a gradient or ever had one; call backward first, and build the optimizer after "
             "convert(model, ...), which makes new parameters",
             name_, parameters_.size());
}

std::vector<ParameterSlot> Optimizer::slots_with_gradient(size_t moments) {
  check_some_gradient();
  for (const GroupSettings& group : groups_) check_settings(group);  // groups() may have changed them
  std::vector<ParameterSlot> slots;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Tensor& p = parameters_[i];
    const Tensor gradient = grad(p);
    if (!gradient.defined()) continue;
    State& state = states_[i];
    const GroupSettings& group = groups_[group_of_[i]];
    if (!state.step.defined()) state.step = zeros({}, step_options());
    ParameterSlot slot{.value = p, .grad = gradient, .step = state.step, .lr = group.lr, .weight_decay = group.weight_decay};
    Tensor* const wanted[] = {&slot.moment1, &slot.moment2, &slot.max_moment2};
    for (size_t m = 0; m < moments; ++m) {
      if (!state.moments[m].defined()) state.moments[m] = zeros(p.shape(), state_options(p));
      *wanted[m] = state.moments[m];
    }
    if (needs_master(p)) {
      Tensor& master = state.moments.back();
      if (!master.defined()) master = to(detach(p), DType::float32);
      slot.master = master;
    }
    slots.push_back(std::move(slot));
    p.bump_version();
  }
  return slots;
}

StateDict Optimizer::state_dict() const {
  StateDict state;
  for (size_t i = 0; i < states_.size(); ++i) {
    if (!states_[i].step.defined()) continue;
    const std::string prefix = std::to_string(i) + ".";
    state.emplace_back(prefix + "step", states_[i].step);
    for (size_t m = 0; m < moment_names_.size(); ++m) {
      if (states_[i].moments[m].defined()) state.emplace_back(prefix + moment_names_[m], states_[i].moments[m]);
    }
  }
  return state;
}

void Optimizer::load_state_dict(const StateDict& state) {
  std::vector<State> loaded(states_.size(), {.moments = std::vector<Tensor>(moment_names_.size())});
  std::string unexpected;
  for (const auto& [name, value] : state) {
    const size_t dot = name.find('.');
    const std::string key = dot == std::string::npos ? "" : name.substr(dot + 1);
    const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
    const bool numbered = dot != std::string::npos && dot > 0 && dot < 10 && std::all_of(name.begin(), name.begin() + dot, is_digit);
    const size_t i = numbered ? std::stoul(name.substr(0, dot)) : states_.size();
    const auto moment = std::find(moment_names_.begin(), moment_names_.end(), key);
    if (i >= states_.size() || (key != "step" && moment == moment_names_.end())) {
      unexpected += (unexpected.empty() ? "" : ", ") + name;
    } else if (key == "step") {
      loaded[i].step = zeros({}, step_options());
      loaded[i].step.copy_from(value);
    } else {
      WEFT_CHECK(value.shape() == parameters_[i].shape(), "{}: state {} should be {}, got {}", name_, name, parameters_[i].shape(), value);
      Tensor copy = empty(parameters_[i].shape(), state_options(parameters_[i]));
      copy.copy_from(value);
      loaded[i].moments[static_cast<size_t>(moment - moment_names_.begin())] = copy;
    }
  }
  WEFT_CHECK(unexpected.empty(), "{}: the state has names that do not belong to {} parameters: {}", name_, states_.size(), unexpected);
  states_ = std::move(loaded);
}

}  // namespace weft
