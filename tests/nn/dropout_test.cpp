#include "weft/nn/dropout.h"

#include <doctest/doctest.h>

#include "weft/autograd/ops.h"
#include "weft/core/random.h"
#include "weft/nn/module.h"

using namespace weft;

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
