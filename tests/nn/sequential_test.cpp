#include "weft/nn/sequential.h"

#include <doctest/doctest.h>

#include <cmath>

#include "nn/module_check.h"
#include "weft/autograd/ops.h"
#include "weft/core/random.h"
#include "weft/nn/dropout.h"
#include "weft/nn/linear.h"
#include "weft/nn/norm.h"

using namespace weft;
using testing::check_module;
using testing::random;

namespace {

const auto call = [](const auto& module, const std::vector<Tensor>& in) { return module(in[0]); };

}  // namespace

TEST_CASE("Sequential: modules, activations and functions in order, under PyTorch's names") {
  Sequential model(
      Linear({.in = 6, .out = 5}), Activation::gelu, LayerNorm({.dim = 5}), [](const Tensor& x) { return x * 2.0; }, Dropout({.p = 0.5}),
      Linear({.in = 5, .out = 3, .bias = false}));
  std::vector<std::string> names;
  for (const auto& entry : state_dict(model)) names.push_back(entry.first);
  CHECK(names == std::vector<std::string>{"0.weight", "0.bias", "2.weight", "2.bias", "5.weight"});
  set_training(model, false);
  CHECK_FALSE(model.at<4>().training);
  const Tensor x = randn({2, 6});
  const Tensor expected = model.at<5>()(model.at<2>()(gelu(model.at<0>()(x))) * 2.0);
  CHECK(model(x).to_vector<float>() == expected.to_vector<float>());
  check_module(Sequential(Linear({.in = 3, .out = 5}), Activation::tanh, Linear({.in = 5, .out = 1})), {random({4, 3})}, call);
  const AnomalyMode anomaly;
  CHECK_THROWS_WITH_AS(model(full({2, 6}, NAN)), doctest::Contains("sequential_test.cpp"), Error);
}
