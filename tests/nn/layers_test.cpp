// Linear, Embedding, norms, Dropout, activations, Sequential, initializers.
#include <doctest/doctest.h>

#include <cmath>

#include "nn/module_check.h"
#include "weft/autograd/ops.h"
#include "weft/nn/activation.h"
#include "weft/nn/dropout.h"
#include "weft/nn/embedding.h"
#include "weft/nn/linear.h"
#include "weft/nn/norm.h"
#include "weft/nn/sequential.h"

using namespace weft;
using test::check_module;
using test::random64;

namespace {

// Smallest and largest element, mean and standard deviation.
struct Summary {
  double low = INFINITY, high = -INFINITY, mean = 0, std = 0;
};
Summary summary(const Tensor& x) {
  Summary s;
  const std::vector<float> values = x.to_vector<float>();
  for (float v : values) {
    s.low = std::min<double>(s.low, v);
    s.high = std::max<double>(s.high, v);
    s.mean += v / static_cast<double>(values.size());
  }
  for (float v : values) s.std += (v - s.mean) * (v - s.mean) / static_cast<double>(values.size());
  s.std = std::sqrt(s.std);
  return s;
}

const auto call = [](const auto& module, const std::vector<Tensor>& in) { return module(in[0]); };

}  // namespace

TEST_CASE("initializers have the distributions that they promise") {
  manual_seed(1);
  const Summary fan_in = summary(init::weight(Init::fan_in, 200, 100, 0));
  CHECK(fan_in.low >= -0.1);
  CHECK(fan_in.high < 0.1);
  CHECK(fan_in.high > 0.0995);
  CHECK(fan_in.std == doctest::Approx(0.2 / std::sqrt(12)).epsilon(0.02));
  const double a = std::sqrt(6.0 / 300);
  const Summary xavier = summary(init::weight(Init::xavier, 200, 100, 0));
  CHECK(xavier.low >= -a);
  CHECK(xavier.high > 0.99 * a);
  CHECK(xavier.high < a);
  const Summary normal = summary(init::weight(Init::normal, 200, 100, 0.02));
  CHECK(normal.std == doctest::Approx(0.02).epsilon(0.02));
  CHECK(std::abs(normal.mean) < 1e-3);
  CHECK(summary(init::weight(Init::zeros, 20, 10, 0)).std == 0);
  CHECK(summary(init::bias(Init::fan_in, 2000, 100)).high > 0.09);
  CHECK(summary(init::bias(Init::xavier, 20, 10)).std == 0);
  manual_seed(5);
  const std::vector<float> first = init::normal({7}, 1).to_vector<float>();
  manual_seed(5);
  CHECK(init::normal({7}, 1).to_vector<float>() == first);
}

TEST_CASE("Linear: gradients, with and without bias, any leading axes") {
  check_module(Linear({.in = 5, .out = 7}), {random64({5})}, call);
  check_module(Linear({.in = 5, .out = 3}), {random64({2, 3, 5})}, call);
  check_module(Linear({.in = 1, .out = 7, .bias = false}), {random64({3, 1})}, call);
  CHECK(Linear({.in = 5, .out = 3})(zeros({0, 5})).shape() == Shape({0, 3}));
}

TEST_CASE("Linear::blocks: the layer's output in pieces, values and gradients") {
  Linear layer({.in = 5, .out = 9});
  const Tensor x = randn({2, 3, 5});
  const std::vector<Tensor> pieces = layer.blocks(x, {4, 3, 2});
  const std::vector<Tensor> expected = split(layer(x), {4, 3, 2}, -1);
  for (size_t i = 0; i < 3; ++i) {
    CHECK(pieces[i].shape() == expected[i].shape());
    CHECK(max(abs(pieces[i] - expected[i])).item() < 1e-5);
  }
  check_module(Linear({.in = 5, .out = 9}), {random64({2, 3, 5})}, [](const Linear& module, const std::vector<Tensor>& in) {
    return concat(module.blocks(in[0], {4, 3, 2}), -1);
  });
  // One piece unused: its rows get zeros.
  check_module(Linear({.in = 5, .out = 9}), {random64({4, 5})}, [](const Linear& module, const std::vector<Tensor>& in) {
    return module.blocks(in[0], {4, 3, 2})[1];
  });
  CHECK(layer.blocks(zeros({2, 0, 5}), {4, 3, 2})[2].shape() == Shape({2, 0, 2}));
  CHECK_THROWS_WITH_AS(layer.blocks(x, {4, 4}), doctest::Contains("blocks must add up to the 9 outputs"), Error);
  CHECK_THROWS_WITH_AS(layer.blocks(zeros({2, 4}), {9}), doctest::Contains("last axis of x must be 5"), Error);
  CHECK_THROWS_WITH_AS(layer.blocks(random64({2, 5}), {9}), doctest::Contains("x is float64 [2, 5], the weight float32"), Error);
}

TEST_CASE("Linear: errors") {
  CHECK_THROWS_WITH_AS(Linear({.in = 0, .out = 3}), doctest::Contains("Linear: in and out must be at least 1, got in = 0, out = 3"), Error);
}

TEST_CASE("Embedding: rows, and logits from the same table") {
  Embedding table({.vocab_size = 7, .dim = 3});
  const Tensor ids = from_vector<int64_t>({6, 0, 6, 2}, {2, 2});
  CHECK(table(ids).shape() == Shape({2, 2, 3}));
  CHECK(slice(reshape(table(ids), {4, 3}), 0, 2, 3).to_vector<float>() == slice(table.weight, 0, 6, 7).to_vector<float>());
  check_module(Embedding({.vocab_size = 7, .dim = 3}), {},
               [&](const Embedding& module, const std::vector<Tensor>&) { return module(ids); });
  check_module(Embedding({.vocab_size = 7, .dim = 3}), {}, [&](const Embedding& module, const std::vector<Tensor>&) {
    return module.as_logits(module(ids));  // both uses of a tied table
  });
  CHECK_THROWS_WITH_AS(Embedding({.vocab_size = 0, .dim = 3}), doctest::Contains("vocab_size and dim must be at least 1"), Error);
}

TEST_CASE("norms: gradients") {
  check_module(LayerNorm({.dim = 7}), {random64({3, 7})}, call);
  check_module(LayerNorm({.dim = 7, .eps = 1e-3, .weight = false, .bias = false}), {random64({2, 3, 7})}, call);
  check_module(RMSNorm({.dim = 7}), {random64({3, 7})}, call);
  check_module(RMSNorm({.dim = 7, .eps = 1e-3, .weight = false}), {random64({3, 7})}, call);
  check_module(GroupNorm({.groups = 3, .channels = 6}), {random64({2, 6, 5})}, call);
  check_module(GroupNorm({.groups = 1, .channels = 3, .affine = false}), {random64({2, 3, 5})}, call);
  check_module(ScaleNorm({.dim = 7}), {random64({3, 7})}, call);
}

TEST_CASE("norms: what they start with") {
  const Tensor x = randn({4, 9}, 3, 2);
  CHECK(summary(mean(LayerNorm({.dim = 9})(x), {-1})).std < 1e-5);
  const Tensor length = sum(square(ScaleNorm({.dim = 9})(x)), {-1});
  for (float value : length.to_vector<float>()) CHECK(value == doctest::Approx(9));
  const Tensor power = mean(square(RMSNorm({.dim = 9})(x)), {-1});
  for (float value : power.to_vector<float>()) CHECK(value == doctest::Approx(1));
}

TEST_CASE("norms: errors") {
  CHECK_THROWS_WITH_AS(LayerNorm({.dim = 0}), doctest::Contains("LayerNorm: dim must be at least 1, got 0"), Error);
  CHECK_THROWS_WITH_AS(RMSNorm({.dim = -1}), doctest::Contains("RMSNorm: dim must be at least 1, got -1"), Error);
  CHECK_THROWS_WITH_AS(ScaleNorm({.dim = 0}), doctest::Contains("ScaleNorm: dim must be at least 1"), Error);
  CHECK_THROWS_WITH_AS(GroupNorm({.groups = 4, .channels = 6}),
                       doctest::Contains("GroupNorm: channels (6) must be a positive multiple of groups (4)"), Error);
}

TEST_CASE("Dropout: active in training only, the same mask in the backward") {
  manual_seed(3);
  Dropout drop({.p = 0.25});
  const Tensor x = parameter(ones({100, 100}));
  const Tensor y = drop(x);
  const double kept = mean(y).item() * 0.75;
  CHECK(kept == doctest::Approx(0.75).epsilon(0.02));
  CHECK(max(y).item() == doctest::Approx(1 / 0.75));
  backward(sum(y));
  CHECK(grad(x).to_vector<float>() == y.to_vector<float>());
  CHECK(drop(x).to_vector<float>() != y.to_vector<float>());
  set_training(drop, false);
  CHECK(drop(x).to_vector<float>() == x.to_vector<float>());
  CHECK(Dropout({.p = 0})(x).node() == x.node());
  CHECK(max(Dropout({.p = 1})(x)).item() == 0);
  CHECK_THROWS_WITH_AS(Dropout({.p = 1.5}), doctest::Contains("Dropout: p must be in [0, 1], got 1.5"), Error);
  CHECK_THROWS_WITH_AS(Dropout({.p = -0.1}), doctest::Contains("p must be in [0, 1]"), Error);
}

TEST_CASE("activations by name") {
  for (const std::string& name : activation_names()) {
    const Activation activation = activation_from(name);
    CHECK(name_of(activation) == name);
    const Tensor x = rand({3, 5}, 0.1, 2, {.dtype = DType::float64});  // away from the kinks
    gradcheck([&](const std::vector<Tensor>& in) { return activate(in[0], activation); }, {x});
    gradcheck([&](const std::vector<Tensor>& in) { return activate(in[0], activation); }, {x * -1.0});
  }
  CHECK(activate(from_vector<float>({-1, 2}, {2}), Activation::relu_squared).to_vector<float>() == std::vector<float>{0, 4});
  CHECK_THROWS_WITH_AS(activation_from("geluu"), doctest::Contains("activation: unknown name \"geluu\"; did you mean \"gelu\""), Error);
}

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
  check_module(Sequential(Linear({.in = 3, .out = 5}), Activation::tanh, Linear({.in = 5, .out = 1})), {random64({4, 3})}, call);
}
