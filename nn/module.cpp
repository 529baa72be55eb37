#include "weft/nn/module.h"

#include <unordered_map>
#include <unordered_set>

#include "weft/autograd/ops.h"

namespace weft::detail {

std::vector<Tensor> parameters_of(const std::vector<NamedTensor>& tensors) {
  std::vector<Tensor> parameters;
  std::unordered_set<const Node*> seen;
  for (const NamedTensor& entry : tensors) {
    if (!entry.buffer && is_parameter(*entry.tensor) && seen.insert(entry.tensor->node().get()).second) parameters.push_back(*entry.tensor);
  }
  return parameters;
}

StateDict state_dict_of(const std::vector<NamedTensor>& tensors) {
  StateDict state;
  for (const NamedTensor& entry : tensors) state.emplace_back(entry.name, detach(*entry.tensor));
  return state;
}

void load_into(const std::vector<NamedTensor>& tensors, const StateDict& state, bool strict) {
  std::unordered_map<std::string, const Tensor*> given;
  for (const auto& [name, tensor] : state) given[name] = &tensor;

  std::string missing, unexpected, misshaped;
  for (const NamedTensor& entry : tensors) {
    auto found = given.find(entry.name);
    if (found == given.end()) {
      missing += " " + entry.name;
      continue;
    }
    const Tensor& source = *found->second;
    if (source.shape() != entry.tensor->shape() || is_float(source.dtype()) != is_float(entry.tensor->dtype())) {
      misshaped += format(" {} (here {}, given {})", entry.name, *entry.tensor, source);
    }
    given.erase(found);
  }
  for (const auto& [name, tensor] : state) {
    if (given.contains(name)) unexpected += " " + name;
  }
  std::string problem;
  if (!misshaped.empty()) problem += "\n  wrong shape or type:" + misshaped;
  if (strict && !missing.empty()) problem += "\n  missing:" + missing;
  if (strict && !unexpected.empty()) problem += "\n  unexpected:" + unexpected;
  WEFT_CHECK(problem.empty(), "load_state_dict: the state does not fit the module{}{}", problem,
             misshaped.empty() ? "\n  (strict = false loads the names that fit)" : "");

  NoGrad no_grad;
  std::unordered_map<std::string, const Tensor*> sources;
  for (const auto& [name, tensor] : state) sources[name] = &tensor;
  for (const NamedTensor& entry : tensors) {
    auto found = sources.find(entry.name);
    if (found != sources.end()) entry.tensor->copy_from(to(*found->second, entry.tensor->dtype()));
  }
}

void convert_all(const std::vector<NamedTensor>& tensors, DType dtype, Device device) {
  WEFT_CHECK(is_float(dtype), "convert: modules hold floating point weights, {} is none", dtype);
  NoGrad no_grad;
  std::unordered_map<const Node*, Tensor> converted;  // a tied weight stays one tensor
  for (const NamedTensor& entry : tensors) {
    Tensor& tensor = *entry.tensor;
    const bool trained = is_parameter(tensor);
    if (trained && converted.contains(tensor.node().get())) {
      tensor = converted[tensor.node().get()];
      continue;
    }
    Tensor value = detach(tensor);
    if (is_float(value.dtype())) value = to(value, dtype);
    value = to(value, device);
    if (trained) {
      const bool wants_grad = requires_grad(tensor);
      value = parameter(value.sole_owner() ? value : clone(value));
      set_requires_grad(value, wants_grad);
      converted[tensor.node().get()] = value;
    }
    tensor = value;
  }
}

}  // namespace weft::detail
