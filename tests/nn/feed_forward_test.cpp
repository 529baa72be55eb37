#include "weft/nn/feed_forward.h"

#include <doctest/doctest.h>

#include <cmath>

#include "nn/module_check.h"

using namespace weft;
using testing::check_module;
using testing::random;

namespace {

const auto call = [](const auto& module, const std::vector<Tensor>& in) { return module(in[0]); };

}  // namespace

TEST_CASE("FeedForward: gradients of every kind, whole and in chunks") {
  for (const char* kind : {"gelu", "gelu_tanh", "silu", "geglu", "swiglu", "glu"}) {
    for (int64_t chunks : {1, 3, 9}) {
      CAPTURE(kind);
      CAPTURE(chunks);
      FeedForwardOptions options{.dim = 3, .mult = 2, .chunks = chunks};
      set_feed_forward_kind(options, kind);
      check_module(FeedForward(options), {random({2, 7, 3})}, call);
    }
  }
}

TEST_CASE("FeedForward: relu_squared") {
  FeedForward module({.dim = 3, .hidden = 5, .activation = Activation::relu_squared, .bias = false});
  const Tensor x = randn({2, 4, 3});
  const Tensor h = max(linear(x, module.up.weight), {}) * 0.0 + relu(linear(x, module.up.weight));
  CHECK(max(abs(module(x) - linear(h * h, module.down.weight))).item() < 1e-6);
}

TEST_CASE("FeedForward: names, sizes, and the first half of a gated layer is activated") {
  FeedForwardOptions options{.dim = 4, .mult = 1.5};
  set_feed_forward_kind(options, "geglu");
  FeedForward module(options);
  std::vector<std::string> names;
  for (const auto& [name, tensor] : state_dict(module)) names.push_back(name);
  CHECK(names == std::vector<std::string>{"up.weight", "up.bias", "down.weight", "down.bias"});
  CHECK(module.up.weight.shape() == Shape({12, 4}));
  CHECK(module.down.weight.shape() == Shape({4, 6}));
  const Tensor x = randn({3, 4});
  const std::vector<Tensor> halves = split(module.up(x), {6, 6}, -1);
  CHECK(max(abs(module(x) - module.down(gelu(halves[0]) * halves[1]))).item() < 1e-6);
}

TEST_CASE("FeedForward: chunks change no value, dropout included in no gradient of evaluation") {
  manual_seed(2);
  FeedForward whole({.dim = 5, .dropout = 0.5});
  FeedForward cut = whole;
  cut.chunks = 4;
  set_training(whole, false);
  set_training(cut, false);
  const Tensor x = randn({2, 10, 5});
  CHECK(max(abs(whole(x) - cut(x))).item() < 1e-6);
  CHECK(cut(zeros({2, 0, 5})).shape() == Shape({2, 0, 5}));
  CHECK(cut(zeros({0, 3, 5})).shape() == Shape({0, 3, 5}));
}

TEST_CASE("FeedForward: anomaly reports name the caller's place, whole and in chunks") {
  for (int64_t chunks : {1, 3}) {
    const FeedForward module({.dim = 5, .chunks = chunks});
    const AnomalyMode anomaly;
    CHECK_THROWS_WITH_AS(module(full({2, 10, 5}, NAN)), doctest::Contains("feed_forward_test.cpp"), Error);
  }
}

TEST_CASE("FeedForward: in chunks the hidden activations are not kept") {
  FeedForward whole({.dim = 8, .hidden = 512});
  FeedForward cut = whole;
  cut.chunks = 16;
  const Tensor x = parameter(randn({1, 256, 8}));
  const auto kept = [&](const FeedForward& module) {
    const int64_t before = bytes_in_use();
    const Tensor y = module(x);
    const int64_t after = bytes_in_use();
    backward(sum(y));
    return after - before;
  };
  CHECK(kept(cut) < kept(whole) / 4);
}

TEST_CASE("FeedForward: errors") {
  CHECK_THROWS_WITH_AS(FeedForward({.dim = 0}), doctest::Contains("FeedForward: the hidden width, dim * mult = 0 * 4, must be 1 to 2^53"),
                       Error);
  CHECK_THROWS_WITH_AS(FeedForward({.dim = 0, .hidden = 3}), doctest::Contains("FeedForward: dim and the hidden width must be at least 1"),
                       Error);
  CHECK_THROWS_WITH_AS(FeedForward({.dim = 16, .mult = 1e18}), doctest::Contains("dim * mult = 16 * 1e+18, must be 1 to 2^53"), Error);
  CHECK_THROWS_WITH_AS(FeedForward({.dim = 2, .chunks = 0}), doctest::Contains("chunks must be at least 1"), Error);
  CHECK_THROWS_WITH_AS(FeedForward({.dim = 2, .activation = Activation::tanh, .gated = true}),
                       doctest::Contains("gated units take gelu, silu, sigmoid or relu, got tanh"), Error);
  CHECK_THROWS_WITH_AS(FeedForward({.dim = 2, .chunks = 2})(zeros({2})), doctest::Contains("chunks needs x of [B, N, dim]"), Error);
  FeedForwardOptions options;
  CHECK_THROWS_WITH_AS(set_feed_forward_kind(options, "swigluu"), doctest::Contains("unknown kind \"swigluu\"; did you mean \"swiglu\""),
                       Error);
}
