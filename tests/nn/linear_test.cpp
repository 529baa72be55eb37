#include "weft/nn/linear.h"

#include <doctest/doctest.h>

#include "nn/module_check.h"
#include "weft/autograd/ops.h"
#include "weft/core/random.h"

using namespace weft;
using testing::check_module;
using testing::random;

namespace {

const auto call = [](const auto& module, const std::vector<Tensor>& in) { return module(in[0]); };

}  // namespace

TEST_CASE("Linear: gradients, with and without bias, any leading axes") {
  check_module(Linear({.in = 5, .out = 7}), {random({5})}, call);
  check_module(Linear({.in = 5, .out = 3}), {random({2, 3, 5})}, call);
  check_module(Linear({.in = 1, .out = 7, .bias = false}), {random({3, 1})}, call);
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
  check_module(Linear({.in = 5, .out = 9}), {random({2, 3, 5})}, [](const Linear& module, const std::vector<Tensor>& in) {
    return concat(module.blocks(in[0], {4, 3, 2}), -1);
  });
  // One piece unused: its rows get zeros.
  check_module(Linear({.in = 5, .out = 9}), {random({4, 5})}, [](const Linear& module, const std::vector<Tensor>& in) {
    return module.blocks(in[0], {4, 3, 2})[1];
  });
  CHECK(layer.blocks(zeros({2, 0, 5}), {4, 3, 2})[2].shape() == Shape({2, 0, 2}));
  CHECK_THROWS_WITH_AS(layer.blocks(x, {4, 4}), doctest::Contains("linear_blocks: the blocks add up to 8"), Error);
  CHECK_THROWS_WITH_AS(layer.blocks(zeros({2, 4}), {9}), doctest::Contains("x is float32 [2, 4], so weight should be [out, 4]"), Error);
  CHECK_THROWS_WITH_AS(layer.blocks(random({2, 5}), {9}), doctest::Contains("x is float64 [2, 5], but weight is float32"), Error);
}

TEST_CASE("Linear: errors") {
  CHECK_THROWS_WITH_AS(Linear({.in = 0, .out = 3}), doctest::Contains("Linear: in and out must be at least 1, got in = 0, out = 3"), Error);
}
