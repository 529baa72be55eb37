#include "weft/autograd/checkpoint.h"

#include "testing.h"

using namespace weft;
using namespace weft::testing;

TEST_CASE("checkpoint: the same values and gradients, parameters inside included, dropout repeated") {
  const Tensor x = normal({5, 7}, 1), w0 = normal({7, 7}, 2), cotangent = normal({5, 7}, 3);
  const auto run = [&](bool checkpointed) {
    manual_seed(11);
    const Tensor w = parameter(clone(w0)), input = parameter(clone(x));
    const auto f = [w](const std::vector<Tensor>& in) { return tanh(dropout(linear(tanh(in[0]), w), 0.4, default_generator().next())); };
    const Tensor y = checkpointed ? checkpoint(f, {input}, {w}) : f({input});
    const Tensor z = dropout(y, 0.3, default_generator().next());
    backward(z, cotangent);
    return std::vector<Tensor>{detach(z), grad(w), grad(input)};
  };
  const std::vector<Tensor> direct = run(false), again = run(true);
  for (size_t i = 0; i < direct.size(); ++i) CHECK(close(again[i], direct[i], 0));
}

TEST_CASE("checkpoint: only the inputs stay in memory") {
  const Tensor x = parameter(normal({64, 64}));
  const auto f = [](const std::vector<Tensor>& in) {
    Tensor y = in[0];
    for (int i = 0; i < 20; ++i) y = tanh(y);
    return y;
  };
  const int64_t before = bytes_in_use();
  const Tensor kept = f({x});
  const int64_t direct = bytes_in_use() - before;
  const int64_t middle = bytes_in_use();
  const Tensor y = checkpoint(f, {x});
  CHECK((bytes_in_use() - middle) * 10 < direct);
}

TEST_CASE("checkpoint: parameters without a differentiable input, and no recording under NoGrad") {
  const Tensor w = parameter(normal({3, 3}, 1)), x = normal({2, 3}, 2);
  const Tensor y = checkpoint([w](const std::vector<Tensor>& in) { return linear(in[0], w); }, {x}, {w});
  backward(sum(y));
  CHECK(grad(w).defined());
  NoGrad no_grad;
  CHECK(!requires_grad(checkpoint([w](const std::vector<Tensor>& in) { return linear(in[0], w); }, {x}, {w})));
}
