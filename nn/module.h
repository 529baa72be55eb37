// What is derived from `visit`.
//
// A module is any struct with tensors, an operator(), and one list:
//
//     struct Linear {
//       Tensor weight, bias;
//       Tensor operator()(const Tensor& x) const { return linear(x, weight, bias); }
//       void visit(auto&& f) { f("weight", weight); f("bias", bias); }
//     };
//
// Parameters, state dict, counts, training mode, freezing and moves come from that list; names join with dots
// ("layers.0.attn.to_q.weight"). Members may be tensors (undefined ones are absent), other modules, and std::vector, std::optional or
// std::unique_ptr of these. There is no base class and no registration; a module is a plain value, and copies share parameters.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "weft/autograd/graph.h"

namespace weft {

/// A tensor that is saved with the weights but not trained (ALiBi slopes, running statistics).
struct Buffer {
  Tensor value;
};

/// One entry of a module's list. `tensor` points into the module, so that loading and moving can replace it.
struct NamedTensor {
  std::string name;
  Tensor* tensor;
  bool buffer;
};

/// State dict: names in the order of the lists, as the original packages have them.
using StateDict = std::vector<std::pair<std::string, Tensor>>;

namespace detail {

template <class T>
struct is_list : std::false_type {};
template <class T>
struct is_list<std::vector<T>> : std::true_type {};
template <class T>
struct is_holder : std::false_type {};
template <class T>
struct is_holder<std::optional<T>> : std::true_type {};
template <class T>
struct is_holder<std::unique_ptr<T>> : std::true_type {};

// Calls on_tensor(name, Tensor&, is_buffer) and on_module(Module&) for `member` and everything below it. A NamedTensor is what a
// type-erased module shows: the entries of a list that was made behind its handle.
template <class T, class OnTensor, class OnModule>
void walk(const std::string& name, T& member, OnTensor& on_tensor, OnModule& on_module) {
  if constexpr (std::is_same_v<T, Tensor>) {
    if (member.defined()) on_tensor(name, member, false);
  } else if constexpr (std::is_same_v<T, Buffer>) {
    if (member.value.defined()) on_tensor(name, member.value, true);
  } else if constexpr (std::is_same_v<T, NamedTensor>) {
    on_tensor(name, *member.tensor, member.buffer);
  } else if constexpr (is_list<T>::value) {
    for (size_t i = 0; i < member.size(); ++i) walk((name.empty() ? "" : name + ".") + std::to_string(i), member[i], on_tensor, on_module);
  } else if constexpr (is_holder<T>::value) {
    if (member) walk(name, *member, on_tensor, on_module);
  } else {
    on_module(member);
    member.visit([&](const std::string& child_name, auto& child) {
      walk(name.empty() ? child_name : (child_name.empty() ? name : name + "." + child_name), child, on_tensor, on_module);
    });
  }
}

template <class M>
std::vector<NamedTensor> collect(M& module) {
  std::vector<NamedTensor> found;
  auto on_tensor = [&](const std::string& name, Tensor& tensor, bool buffer) { found.push_back({name, &tensor, buffer}); };
  auto on_module = [](auto&) {};
  walk("", module, on_tensor, on_module);
  return found;
}

std::vector<Tensor> parameters_of(const std::vector<NamedTensor>& tensors);
StateDict state_dict_of(const std::vector<NamedTensor>& tensors);
void load_into(const std::vector<NamedTensor>& tensors, const StateDict& state, bool strict);
void convert_all(const std::vector<NamedTensor>& tensors, DType dtype, Device device);

}  // namespace detail

/// The trained tensors, each once (a tied weight stands under two names but is one parameter). Frozen ones are included.
template <class M>
std::vector<Tensor> parameters(M& module) {
  return detail::parameters_of(detail::collect(module));
}

/// Every tensor under its name, sharing memory with the module.
template <class M>
StateDict state_dict(M& module) {
  return detail::state_dict_of(detail::collect(module));
}

/// Copies `state` into the module's tensors, converting floating point dtypes. Strict: missing, unexpected and mis-shaped names are one
/// error that shows the first of each. Not strict: what fits by name is loaded; a wrong shape or a name given twice is still an error.
template <class M>
void load_state_dict(M& module, const StateDict& state, bool strict = true) {
  detail::load_into(detail::collect(module), state, strict);
}

template <class M>
int64_t count_parameters(M& module) {
  int64_t count = 0;
  for (const Tensor& p : parameters(module)) count += p.numel();
  return count;
}

/// Switches everything with a `training` flag (dropout) below `module`: modules start in training mode, evaluation is set_training(m,
/// false).
template <class M>
void set_training(M& module, bool on) {
  auto on_tensor = [](const std::string&, Tensor&, bool) {};
  auto on_module = [on](auto& m) {
    if constexpr (requires { m.training = on; }) m.training = on;
    if constexpr (requires { m.set_training(on); }) m.set_training(on);
  };
  detail::walk("", module, on_tensor, on_module);
}

/// Stops (or resumes) collecting gradients for every parameter of `module`.
template <class M>
void freeze(M& module, bool frozen = true) {
  for (Tensor& p : parameters(module)) set_requires_grad(p, !frozen);
}

template <class M>
void zero_grad(M& module) {
  for (const Tensor& p : parameters(module)) zero_grad(p);
}

/// Converts every floating point tensor of `module` to `dtype` and moves everything to `device`. Gradients are dropped; tied weights stay
/// tied. The parameters are new tensors afterwards: build optimizers and averages (Ema) after it, not before.
template <class M>
void convert(M& module, DType dtype, Device device = default_device()) {
  detail::convert_all(detail::collect(module), dtype, device);
}

}  // namespace weft
