#include "weft/nn/norm.h"

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

TEST_CASE("norms: gradients") {
  check_module(LayerNorm({.dim = 7}), {random({3, 7})}, call);
  check_module(LayerNorm({.dim = 7, .eps = 1e-3, .weight = false, .bias = false}), {random({2, 3, 7})}, call);
  check_module(RMSNorm({.dim = 7}), {random({3, 7})}, call);
  check_module(RMSNorm({.dim = 7, .eps = 1e-3, .weight = false}), {random({3, 7})}, call);
  check_module(GroupNorm({.groups = 3, .channels = 6}), {random({2, 6, 5})}, call);
  check_module(GroupNorm({.groups = 1, .channels = 3, .affine = false}), {random({2, 3, 5})}, call);
  check_module(ScaleNorm({.dim = 7}), {random({3, 7})}, call);
}

TEST_CASE("norms: what they start with") {
  const Tensor x = randn({4, 9}, 3, 2);
  CHECK(max(abs(mean(LayerNorm({.dim = 9})(x), {-1}))).item() < 1e-5);
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
