#include "weft/autograd/checkpoint.h"

#include "weft/core/random.h"

namespace weft {

Tensor checkpoint(const std::function<Tensor(const std::vector<Tensor>&)>& f, const std::vector<Tensor>& inputs, Location at) {
  if (!grad_enabled()) return f(inputs);
  const Generator before = default_generator();
  std::vector<Tensor> values, recorded = inputs;
  for (const Tensor& input : inputs) values.push_back(detach(input));
  Tensor y;
  {
    CaptureScope scope;
    y = f(values);
    scope.note(y);  // f may return what it captures as it is
    recorded.insert(recorded.end(), scope.captured().begin(), scope.captured().end());
  }
  return record(
      "checkpoint", detach(y), recorded,
      [f, values, recorded, before](const Tensor& dy) -> Grads {
        // Fresh leaves stand for the inputs; what f captures stands for itself.
        std::vector<Tensor> again = values, xs = recorded;
        for (size_t i = 0; i < again.size(); ++i) {
          if (requires_grad(recorded[i])) xs[i] = again[i] = parameter(values[i]);
        }
        Tensor output;
        {
          WithGrad recording;
          Generator generator = before;
          GeneratorScope same_numbers(generator);
          output = f(again);
        }
        return requires_grad(output) ? gradients_down_to(xs, output, dy) : Grads(xs.size());
      },
      at);
}

}  // namespace weft
