// Running a case and comparing: forward and backward, fixed values, training runs.
#include <algorithm>
#include <cmath>

#include "golden.h"
#include "optimizer.h"
#include "weft/autograd/ops.h"

namespace weft::golden {
namespace {

// Everything as doubles on the host; ids and masks compare exactly that way too.
std::vector<double> values_of(const Tensor& x) {
  NoGrad no_grad;
  return to(to(detach(x), DType::float64), Device::cpu()).to_vector<double>();
}

std::string position_of(int64_t element, const Shape& shape) {
  std::string text;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    text = std::to_string(element % shape[axis]) + (text.empty() ? "" : ", ") + text;
    element /= shape[axis];
  }
  return "[" + text + "]";
}

// Collects the tensors of one case that differ.
class Comparison {
 public:
  explicit Comparison(double tolerance) : tolerance_(tolerance) {}

  void compare(const std::string& name, const Tensor& ours, const Tensor& expected) {
    if (ours.shape() != expected.shape() || is_float(ours.dtype()) != is_float(expected.dtype())) {
      return fail(name, format("expected {}, got {}", expected, ours));
    }
    const std::vector<double> a = values_of(ours), b = values_of(expected);
    double largest = 0;
    size_t where = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      const double difference = distance(a[i], b[i]);
      if (difference > largest) largest = difference, where = i;
    }
    if (largest <= tolerance_) return;
    fail(name,
         format("largest difference {} at {} (expected {}, got {}), tolerance {}", largest,
                position_of(static_cast<int64_t>(where), ours.shape()), b[where], a[where], tolerance_),
         largest);
  }

  /// `ours` may be undefined (no gradient arrived): that is zero.
  void compare_gradient(const std::string& name, const Tensor& ours, const Tensor& expected) {
    compare(name, ours.defined() ? ours : zeros_like(expected), expected);
  }

  void fail(const std::string& name, const std::string& text, double difference = INFINITY) {
    failures_.push_back({name, text, difference});
  }
  std::vector<Failure> failures() { return std::move(failures_); }

 private:
  // |a - b| / (1 + |b|): what the tolerance bounds.
  static double distance(double a, double b) {
    if (a == b || (std::isnan(a) && std::isnan(b))) return 0;
    if (!std::isfinite(a) || !std::isfinite(b)) return INFINITY;
    return std::abs(a - b) / (1 + std::abs(b));
  }

  double tolerance_;
  std::vector<Failure> failures_;
};

// The floating point type of the file: that of its parameters, inputs, outputs (the first that has one).
DType dtype_of_file(const Case& file) {
  for (const char* prefix : {"param.", "in.", "batch.", "out."}) {
    for (const auto& [name, tensor] : file.tensors) {
      if (name.starts_with(prefix) && is_float(tensor.dtype())) return tensor.dtype();
    }
  }
  return DType::float64;
}

StateDict as_state(const Tensors& tensors) { return StateDict(tensors.begin(), tensors.end()); }

Tensors on_device(const Tensors& tensors, Device device) {
  Tensors moved;
  for (const auto& [name, tensor] : tensors) moved[name] = to(tensor, device);
  return moved;
}

void compare_outputs(Comparison& comparison, const Case& file, const Tensors& outputs) {
  for (const auto& [name, expected] : file.group("out")) {
    const Tensor ours = get(outputs, name);
    if (!ours.defined()) {
      comparison.fail("out." + name, "the adapter gives no such output");
    } else {
      comparison.compare("out." + name, ours, expected);
    }
  }
}

void run_case(Comparison& comparison, const Case& file, Subject& subject, Device device) {
  Tensors inputs = on_device(file.group("in"), device);
  const Tensors input_gradients = file.group("din"), parameter_gradients = file.group("dparam");
  for (auto& [name, tensor] : inputs) {
    if (input_gradients.contains(name)) tensor = parameter(tensor);
  }
  const Tensors outputs = subject.forward(inputs);
  compare_outputs(comparison, file, outputs);

  std::vector<Tensor> ys, dys;
  for (const auto& [name, cotangent] : on_device(file.group("cot"), device)) {
    const Tensor y = get(outputs, name);
    if (!y.defined() || !requires_grad(y) || y.shape() != cotangent.shape()) continue;
    ys.push_back(y);
    dys.push_back(cotangent);
  }
  if (!ys.empty()) backward(ys, dys);

  for (const auto& [name, expected] : input_gradients) comparison.compare_gradient("din." + name, grad(need(inputs, name)), expected);
  std::set<std::string> seen;
  for (const NamedTensor& entry : subject.tensors()) {
    if (entry.buffer || !is_parameter(*entry.tensor)) continue;
    seen.insert(entry.name);
    const Tensor ours = grad(*entry.tensor);
    const auto expected = parameter_gradients.find(entry.name);
    if (expected != parameter_gradients.end()) {
      comparison.compare_gradient("dparam." + entry.name, ours, expected->second);
    } else if (ours.defined() && file.kind == "case") {
      // The original has none: ours may be there, but only as zeros.
      comparison.compare("dparam." + entry.name, ours, zeros_like(ours));
    }
  }
  for (const auto& [name, expected] : parameter_gradients) {
    if (!seen.contains(name)) comparison.fail("dparam." + name, "there is no such parameter");
  }
}

void run_trajectory(Comparison& comparison, const Case& file, Subject& subject, Device device) {
  WEFT_CHECK(subject.loss != nullptr, "the adapter of {} has no loss, but the file is a training run", file.model);
  Arguments settings("optimizer", file.optimizer);
  Trainer trainer(settings, subject.tensors());
  settings.check_all_used();

  Tensors outputs;
  std::vector<double> losses, norms;
  for (int64_t i = 0;; ++i) {
    const Tensors batch = file.group("batch." + std::to_string(i));
    if (batch.empty()) break;
    const Tensor loss = subject.loss(on_device(batch, device));
    losses.push_back(loss.item());
    backward(loss);
    norms.push_back(trainer.step());
  }
  outputs["losses"] = from_vector(losses, {static_cast<int64_t>(losses.size())});
  outputs["grad_norms"] = from_vector(norms, {static_cast<int64_t>(norms.size())});
  compare_outputs(comparison, file, outputs);

  Tensors final_values;
  for (const NamedTensor& entry : subject.tensors()) final_values[entry.name] = detach(*entry.tensor);
  for (const auto& [name, expected] : file.group("final")) {
    const Tensor ours = get(final_values, name);
    if (!ours.defined()) {
      comparison.fail("final." + name, "there is no such parameter");
    } else {
      comparison.compare("final." + name, ours, expected);
    }
  }
}

}  // namespace

std::vector<Failure> run(const Case& file, Device device) {
  Comparison comparison(file.tolerance);
  try {
    const auto adapter = adapters().find(file.model);
    WEFT_CHECK(adapter != adapters().end(), "no adapter for model {}", file.model);
    Arguments options(file.model + " options", file.options), call(file.model + " call", file.call);
    Request request{file, options, call};
    Subject subject = adapter->second(request);
    options.check_all_used();
    call.check_all_used();
    subject.convert(dtype_of_file(file), device);
    subject.load(as_state(file.group("param")));
    if (file.kind == "trajectory") {
      run_trajectory(comparison, file, subject, device);
    } else {
      run_case(comparison, file, subject, device);
    }
  } catch (const std::exception& error) {
    comparison.fail("", error.what());
  }
  return comparison.failures();
}

}  // namespace weft::golden
