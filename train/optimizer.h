// What all optimizers share: groups of parameters, their state, and its names in a checkpoint.
//
//     AdamW optimizer(parameters(model), {.lr = 3e-4, .weight_decay = 0.1});
//     for (...) {
//       backward(loss_of(model, batch));
//       const Tensor norm = grad_norm(optimizer.parameters());
//       optimizer.set_lr(warmup_cosine(step, schedule));
//       optimizer.step(clip_scale(norm, 1.0));
//       optimizer.zero_grad();
//     }
//
// A step is one fused pass over all parameters that have a gradient; clipping costs nothing because the gradients are scaled on the way.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "weft/nn/module.h"

namespace weft {

struct ParameterSlot;  // core/kernels.h

/// Parameters with settings of their own, as an optimizer is given them.
struct ParameterGroup {
  std::vector<Tensor> parameters = {};
  double lr = 1e-3;
  double weight_decay = 0;
};

/// What may be changed between steps. The parameters of an optimizer are fixed: a new one takes new parameters.
struct GroupSettings {
  double lr = 1e-3;
  double weight_decay = 0;
};

/// An error that names two devices if there are several.
void check_one_device(const char* op, std::span<const Tensor> parameters);

class Optimizer {
 public:
  virtual ~Optimizer() = default;

  /// Updates every parameter that has a gradient, from grad_scale times that gradient. An error if none has one and none ever had.
  void step(double grad_scale = 1) { update({.factor = grad_scale, .tensor = {}}); }
  /// The same with a scale that is on the device (a float64 scalar, of clip_scale): nothing waits for it. If it is NaN or infinite nothing
  /// changes: one overflow does not ruin the weights.
  void step(const Tensor& grad_scale);

  /// Clears the gradients of all parameters.
  void zero_grad();
  /// Sets the learning rate of all groups; like weight decays, it must be finite and not negative.
  void set_lr(double lr);
  /// All parameters, in the order of the groups: their index names them in the state.
  const std::vector<Tensor>& parameters() const { return parameters_; }

  /// The settings of each group, in their order.
  std::span<GroupSettings> groups() { return groups_; }
  std::span<const GroupSettings> groups() const { return groups_; }

  /// What a resumed run needs besides the weights: "3.step", "3.exp_avg", ... for parameter 3, sharing memory with the optimizer.
  /// Parameters that have not been updated yet are absent.
  StateDict state_dict() const;
  /// Copies a state back; parameters that are absent start afresh. An error lists names that do not belong here.
  void load_state_dict(const StateDict& state);

 protected:
  /// `moment_names`: the tensors that the state of a parameter may hold.
  Optimizer(const char* name, const std::vector<ParameterGroup>& groups, std::vector<std::string> moment_names);

  /// factor * tensor multiplies every gradient; the tensor may be undefined.
  struct GradScale {
    double factor = 1;
    Tensor tensor;
  };
  virtual void update(const GradScale& scale) = 0;

  struct State {
    Tensor step = {};                  // updates so far, an int64 scalar beside the parameter; undefined before the first
    std::vector<Tensor> moments = {};  // by moment_names; undefined where the rule needs none
  };
  /// Weights in half precision are updated through a float32 copy of them, the last of the state's tensors: steps smaller than their
  /// rounding would be lost. Moments are float32, too.
  static bool needs_master(const Tensor& p) { return size_of(p.dtype()) == 2; }
  static TensorOptions state_options(const Tensor& p) {
    return {.dtype = needs_master(p) ? DType::float32 : p.dtype(), .device = p.device()};
  }
  /// A slot for every parameter that has a gradient, with the first `moments` of its tensors. The kernel that gets them counts the step and
  /// changes the parameters.
  std::vector<ParameterSlot> slots_with_gradient(size_t moments);

 private:
  TensorOptions step_options() const { return {.dtype = DType::int64, .device = parameters_[0].device()}; }
  void check_some_gradient() const;
  void check_settings(const GroupSettings& group) const;

  std::string name_;
  std::vector<std::string> moment_names_;
  std::vector<GroupSettings> groups_;
  std::vector<Tensor> parameters_;
  std::vector<size_t> group_of_;  // of each parameter
  std::vector<State> states_;
};

}  // namespace weft
