#include "weft/nn/module.h"

#include <doctest/doctest.h>

#include "weft/autograd/ops.h"
#include "weft/core/random.h"
#include "weft/nn/dropout.h"
#include "weft/nn/embedding.h"
#include "weft/nn/linear.h"
#include "weft/nn/norm.h"

using namespace weft;

namespace {

struct Block {
  Linear up{{.in = 3, .out = 5}};
  std::optional<LayerNorm> norm;
  std::unique_ptr<Linear> extra;
  Dropout dropout{{.p = 0.5}};
  void visit(auto&& f) {
    f("up", up);
    f("norm", norm);
    f("extra", extra);
    f("dropout", dropout);
  }
};

struct Model {
  Embedding tokens{{.vocab_size = 7, .dim = 3}};
  std::vector<Block> layers = std::vector<Block>(2);
  Linear head{{.in = 3, .out = 7, .bias = false}};
  Buffer slopes{ones({4})};

  Model() {
    layers[1].norm = LayerNorm({.dim = 5});
    layers[1].extra = std::make_unique<Linear>(LinearOptions{.in = 1, .out = 2, .bias = false});
    head.weight = tokens.weight;  // tied
  }
  void visit(auto&& f) {
    f("tokens", tokens);
    f("layers", layers);
    f("head", head);
    f("slopes", slopes);
  }
};

std::vector<std::string> names_of(const StateDict& state) {
  std::vector<std::string> names;
  for (const auto& entry : state) names.push_back(entry.first);
  return names;
}

std::string error_of(auto&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

StateDict copy_of(Model& model) {
  StateDict copy;
  for (const auto& [name, tensor] : state_dict(model)) copy.emplace_back(name, clone(tensor));
  return copy;
}

}  // namespace

TEST_CASE("names join with dots and follow the lists, undefined tensors are absent") {
  Model model;
  CHECK(names_of(state_dict(model)) == std::vector<std::string>{"tokens.weight", "layers.0.up.weight", "layers.0.up.bias",
                                                                "layers.1.up.weight", "layers.1.up.bias", "layers.1.norm.weight",
                                                                "layers.1.norm.bias", "layers.1.extra.weight", "head.weight", "slopes"});
}

TEST_CASE("a tied parameter has two names and counts once, buffers do not count") {
  Model model;
  CHECK(parameters(model).size() == 8);
  CHECK(count_parameters(model) == 21 + 2 * 20 + 10 + 2);
  const Tensor loss = sum(model.head(model.tokens(from_vector<int64_t>({1, 2}, {2}))));
  backward(loss);
  CHECK(grad(model.tokens.weight).defined());
  zero_grad(model);
  CHECK_FALSE(grad(model.head.weight).defined());
}

TEST_CASE("a state dict shares memory with the module, and loading copies into it") {
  Model a, b;
  load_state_dict(b, copy_of(a));
  CHECK(b.layers[1].up.weight.to_vector<float>() == a.layers[1].up.weight.to_vector<float>());
  CHECK(b.head.weight.raw() == b.tokens.weight.raw());
  const uint64_t version = b.slopes.value.version();
  state_dict(b).back().second.copy_from(zeros({4}));
  CHECK(b.slopes.value.to_vector<float>() == std::vector<float>(4, 0));
  CHECK(b.slopes.value.version() > version);
}

TEST_CASE("loading converts floating point dtypes") {
  Linear layer({.in = 2, .out = 1, .bias = false});
  load_state_dict(layer, {{"weight", from_vector<double>({1.5, -2}, {1, 2})}});
  CHECK(layer.weight.dtype() == DType::float32);
  CHECK(layer.weight.to_vector<float>() == std::vector<float>{1.5F, -2});
}

TEST_CASE("a strict load lists missing, unexpected and mis-shaped names together, and changes nothing") {
  Linear layer({.in = 2, .out = 3});
  const std::vector<float> before = layer.weight.to_vector<float>();
  const std::string message = error_of([&] { load_state_dict(layer, {{"weight", zeros({2, 3})}, {"gain", zeros({3})}}); });
  CHECK(contains(message, "load_state_dict"));
  CHECK(contains(message, "wrong shape or type: weight (here float32 [3, 2], given float32 [2, 3])"));
  CHECK(contains(message, "missing: bias"));
  CHECK(contains(message, "unexpected: gain"));
  CHECK(layer.weight.to_vector<float>() == before);
}

TEST_CASE("a load that is not strict takes what fits by name, a wrong shape stays an error") {
  Linear layer({.in = 2, .out = 3});
  load_state_dict(layer, {{"weight", ones({3, 2})}, {"gain", zeros({3})}}, false);
  CHECK(layer.weight.to_vector<float>() == std::vector<float>(6, 1));
  CHECK(contains(error_of([&] { load_state_dict(layer, {{"bias", zeros({4})}}, false); }), "wrong shape or type: bias"));
  CHECK(contains(error_of([&] {
                   load_state_dict(layer, {{"bias", zeros({3}, {.dtype = DType::int64})}}, false);
                 }),
                 "wrong shape or type: bias"));
  CHECK(contains(error_of([&] { load_state_dict(layer, {{"weight", ones({3, 2})}}); }), "strict = false"));
}

TEST_CASE("a state that holds a name twice is refused, and long lists of names are cut") {
  Linear layer({.in = 2, .out = 3, .bias = false});
  for (bool strict : {true, false}) {
    const StateDict twice = {{"weight", ones({3, 2})}, {"weight", zeros({3, 2})}};
    const std::string message = error_of([&] { load_state_dict(layer, twice, strict); });
    CHECK(contains(message, "given twice: weight"));
    CHECK_FALSE(contains(message, "strict = false"));
  }
  StateDict many;
  for (int i = 0; i < 20; ++i) many.emplace_back("w" + std::to_string(i), zeros({1}));
  const std::string message = error_of([&] { load_state_dict(layer, many); });
  CHECK(contains(message, "missing: weight\n"));
  CHECK(contains(message, "unexpected: w0 w1 w2 w3 w4 w5 w6 w7 and 12 more"));
}

TEST_CASE("loading counts as a change in place: an older graph is refused") {
  Linear layer({.in = 2, .out = 3});
  const Tensor loss = sum(square(layer(parameter(ones({1, 2})))));
  load_state_dict(layer, {{"weight", ones({3, 2})}, {"bias", zeros({3})}});
  CHECK(contains(error_of([&] { backward(loss); }), "changed in place"));
}

TEST_CASE("set_training finds dropout at any depth") {
  Model model;
  CHECK(model.layers[0].dropout.training);
  set_training(model, false);
  CHECK_FALSE(model.layers[0].dropout.training);
  CHECK_FALSE(model.layers[1].dropout.training);
  set_training(model, true);
  CHECK(model.layers[1].dropout.active());
}

TEST_CASE("frozen parameters collect no gradient") {
  Linear layer({.in = 2, .out = 3});
  freeze(layer);
  CHECK_FALSE(requires_grad(layer(ones({1, 2}))));
  CHECK(parameters(layer).size() == 2);
  freeze(layer, false);
  backward(sum(layer(ones({1, 2}))));
  CHECK(grad(layer.weight).defined());
}

TEST_CASE("convert changes the dtype of everything and keeps ties and frozen parameters") {
  Model model;
  freeze(model.layers[0]);
  convert(model, DType::float64);
  for (const auto& [name, tensor] : state_dict(model)) CHECK(tensor.dtype() == DType::float64);
  CHECK(model.head.weight.node() == model.tokens.weight.node());
  CHECK(count_parameters(model) == 21 + 2 * 20 + 10 + 2);
  CHECK_FALSE(requires_grad(model.layers[0].up.weight));
  CHECK(requires_grad(model.layers[1].up.weight));
  CHECK(contains(error_of([&] { convert(model, DType::int64); }), "convert: modules hold floating point weights"));
}

TEST_CASE("copies of a module share parameters") {
  Linear a({.in = 2, .out = 2});
  Linear b = a;
  backward(sum(b(ones({1, 2}))));
  CHECK(grad(a.weight).defined());
}
