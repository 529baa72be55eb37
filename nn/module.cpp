#include "weft/nn/module.h"

#include <unordered_map>
#include <unordered_set>

#include "weft/autograd/ops.h"

namespace weft::detail {
namespace {

// Names for an error message: the first few, and how many more there are.
class NameList {
 public:
  void add(const std::string& name) {
    if (++count_ <= shown) text_ += " " + name;
  }
  /// A line of its own; nothing if there are no names.
  std::string text(const char* what) const {
    if (count_ == 0) return "";
    return format("\n  {}:{}{}", what, text_, count_ > shown ? format(" and {} more", count_ - shown) : "");
  }

 private:
  static constexpr int64_t shown = 8;
  std::string text_;
  int64_t count_ = 0;
};

}  // namespace

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
  NameList missing, unexpected, misshaped, repeated;
  for (const auto& [name, tensor] : state) {
    if (!given.emplace(name, &tensor).second) repeated.add(name);
  }
  for (const NamedTensor& entry : tensors) {
    auto found = given.find(entry.name);
    if (found == given.end()) {
      missing.add(entry.name);
      continue;
    }
    const Tensor& source = *found->second;
    if (source.shape() != entry.tensor->shape() || is_float(source.dtype()) != is_float(entry.tensor->dtype())) {
      misshaped.add(format("{} (here {}, given {})", entry.name, *entry.tensor, source));
    }
    given.erase(found);
  }
  for (const auto& [name, tensor] : state) {
    if (given.contains(name)) unexpected.add(name);
  }
  const std::string always = repeated.text("given twice") + misshaped.text("wrong shape or type");
  const std::string problem = always + (strict ? missing.text("missing") + unexpected.text("unexpected") : "");
  WEFT_CHECK(problem.empty(), "load_state_dict: the state does not fit the module{}{}", problem,
             always.empty() ? "\n  (strict = false loads the names that fit)" : "");

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
      mark_replaced(tensor);
    }
    tensor = value;
  }
}

}  // namespace weft::detail
