#include "weft/nn/init.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "weft/core/random.h"

using namespace weft;

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
