#include "weft/nn/norm.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "nn/module_check.h"
#include "weft/autograd/ops.h"
#include "weft/core/random.h"

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
