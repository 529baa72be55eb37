#include "weft/autograd/checkpoint.h"

#include "weft/core/random.h"

namespace weft {

Tensor checkpoint(const std::function<Tensor(const std::vector<Tensor>&)>& f, const std::vector<Tensor>& inputs,
                  const std::vector<Tensor>& parameters, Location at) {
  if (!grad_enabled()) return f(inputs);
  const Generator before = default_generator();
  Tensor y;
  {
    NoGrad no_grad;
    y = detach(f(inputs));
  }
  std::vector<Tensor> recorded = inputs;
  recorded.insert(recorded.end(), parameters.begin(), parameters.end());
  std::vector<Tensor> values;
  for (const Tensor& input : inputs) values.push_back(detach(input));
  std::vector<bool> wanted;
  for (const Tensor& input : inputs) wanted.push_back(requires_grad(input));

  return record(
      "checkpoint", y, recorded,
      [f, values, wanted, before, outside = parameters.size()](const Tensor& dy) -> Grads {
        Grads dxs(values.size() + outside);
        std::vector<Tensor> again = values, leaves;
        std::vector<size_t> places;
        for (size_t i = 0; i < again.size(); ++i) {
          if (!wanted[i]) continue;
          again[i] = parameter(again[i]);
          leaves.push_back(again[i]);
          places.push_back(i);
        }
        Generator generator = before;
        GeneratorScope same_numbers(generator);
        WithGrad recording;
        const Tensor output = f(again);
        if (!requires_grad(output)) return dxs;
        backward(output, dy);  // fills the parameters that f uses, and our own leaves
        for (size_t i = 0; i < leaves.size(); ++i) dxs[places[i]] = grad(leaves[i]);
        return dxs;
      },
      at);
}

}  // namespace weft
