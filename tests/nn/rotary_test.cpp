#include "weft/nn/rotary.h"

#include <cmath>

#include "testing.h"
#include "weft/autograd/gradcheck.h"
#include "weft/autograd/ops.h"
#include "weft/core/random.h"

using namespace weft;
using testing::random;

namespace {

double largest_difference(const Tensor& a, const Tensor& b) { return max(abs(a - b)).item(); }

// The definition, one pair at a time; x [B, N, H, D].
Tensor reference(const Tensor& x, int64_t offset, int64_t dim, bool half_split) {
  const int64_t n = x.size(1), heads = x.size(2), width = x.size(3);
  std::vector<double> y = x.to_vector<double>();
  for (int64_t row = 0; row < x.numel() / width; ++row) {
    const double position = static_cast<double>(offset + row / heads % n);
    for (int64_t i = 0; i < dim / 2; ++i) {
      const double angle = position * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
      double& a = y[static_cast<size_t>(row * width + (half_split ? i : 2 * i))];
      double& b = y[static_cast<size_t>(row * width + (half_split ? i + dim / 2 : 2 * i + 1))];
      const double turned = a * std::cos(angle) - b * std::sin(angle);
      b = a * std::sin(angle) + b * std::cos(angle);
      a = turned;
    }
  }
  return from_vector(y, x.shape());
}

}  // namespace

TEST_CASE("rotary: the values of the specification") {
  const Tensor x = repeat(from_vector<double>({1, 2, 3, 4}, {1, 1, 4}), {1, 3, 1});
  const std::vector<double> y = rotary(x).to_vector<double>();
  const std::vector<double> expected = {1,         2,         3,          4,         -1.1426397, 1.9220756,
                                        2.9598507, 4.0297995, -2.2347417, 0.0770038, 2.9194054,  4.0591960};
  for (size_t i = 0; i < expected.size(); ++i) CHECK(y[i] == doctest::Approx(expected[i]).epsilon(1e-7));
}

TEST_CASE("rotary: any width and offset, both pairings, part of the features") {
  for (int64_t dim : {2, 6, 16, 34, 64, 130}) {
    for (bool half_split : {false, true}) {
      CAPTURE(dim);
      CAPTURE(half_split);
      const Tensor x = random({2, 7, 3, dim + 5});
      CHECK(largest_difference(rotary(x, {.offset = 9, .dim = dim, .half_split = half_split}), reference(x, 9, dim, half_split)) < 1e-12);
      const Tensor single = to(x, DType::float32);
      CHECK(largest_difference(to(rotary(single, {.dim = dim, .half_split = half_split}), DType::float64),
                               reference(x, 0, dim, half_split)) < 1e-5);
    }
  }
}

TEST_CASE("rotary: heads first gives the same") {
  const Tensor x = random({2, 7, 3, 6});
  const Tensor heads_first = rotary(permute(x, {0, 2, 1, 3}), {.axis = 2, .offset = 4});
  CHECK(largest_difference(permute(heads_first, {0, 2, 1, 3}), rotary(x, {.axis = 1, .offset = 4})) == 0);
  CHECK(largest_difference(rotary(x, {.axis = -3, .offset = 4}), rotary(x, {.axis = 1, .offset = 4})) == 0);
}

TEST_CASE("rotary: gradients") {
  gradcheck([](const std::vector<Tensor>& in) { return rotary(in[0], {.offset = 3}); }, {random({2, 5, 3, 6})});
  gradcheck([](const std::vector<Tensor>& in) { return rotary(in[0], {.axis = 2, .dim = 4, .half_split = true}); }, {random({1, 3, 7, 7})});
}

TEST_CASE("rotary: products depend on the distance only, lengths stay, position 0 stays") {
  const Tensor q = random({1, 1, 1, 8}), k = random({1, 1, 1, 8});
  const auto product = [&](int64_t i, int64_t j) { return sum(rotary(q, {.offset = i}) * rotary(k, {.offset = j})).item(); };
  CHECK(product(3, 1) == doctest::Approx(product(1002, 1000)));
  CHECK(largest_difference(rotary(q), q) == 0);
  CHECK(sum(square(rotary(q, {.offset = 77}))).item() == doctest::Approx(sum(square(q)).item()));
}

TEST_CASE("rotary: decoding one position at a time equals the whole sequence") {
  const Tensor x = random({2, 9, 2, 4});
  const Tensor whole = rotary(x);
  for (int64_t i = 0; i < 9; ++i) {
    CHECK(largest_difference(rotary(slice(x, 1, i, i + 1), {.offset = i}), slice(whole, 1, i, i + 1)) == 0);
  }
}

TEST_CASE("rotary: tables grow, and a table of one's own is used as it is") {
  CHECK(rotary_table(3, 10).cos.size(1) == 5);
  CHECK(rotary_table(300, 10).cos.size(0) >= 300);
  CHECK(rotary_table(4, 10).sin.size(0) >= 300);
  const RotaryTable own = rotary_table(6, from_vector<double>({1, 0.5}, {2}));
  const Tensor x = random({1, 6, 1, 4});
  const Tensor y = rotary(x, own);
  const std::vector<double> in = x.to_vector<double>(), out = y.to_vector<double>();
  CHECK(out[4 * 5 + 2] == doctest::Approx(in[22] * std::cos(2.5) - in[23] * std::sin(2.5)));
}

TEST_CASE("rotary: empty tensors") {
  CHECK(rotary(zeros({2, 0, 3, 4})).shape() == Shape({2, 0, 3, 4}));
  CHECK(rotary(zeros({0, 5, 3, 4})).shape() == Shape({0, 5, 3, 4}));
}

TEST_CASE("rotary: errors") {
  const Tensor x = zeros({2, 5, 3, 6});
  CHECK_THROWS_WITH_AS(rotary(zeros({4})), doctest::Contains("rotary: expected at least 2 dimensions"), Error);
  CHECK_THROWS_WITH_AS(rotary(zeros({2, 5, 3, 7})), doctest::Contains("rotated width must be even and at least 2, got 7"), Error);
  CHECK_THROWS_WITH_AS(rotary(x, {.offset = -1}), doctest::Contains("offset must not be negative"), Error);
  for (const double base : {0.0, -10000.0, static_cast<double>(INFINITY), static_cast<double>(NAN)}) {
    CHECK_THROWS_WITH_AS(rotary(x, {.base = base}), doctest::Contains("rotary: the base must be positive and finite"), Error);
  }
  CHECK_THROWS_WITH_AS(rotary(x, {.axis = 3}), doctest::Contains("sequence axis 3"), Error);
  CHECK_THROWS_WITH_AS(rotary(x, {.dim = 8}), doctest::Contains("rotates 8 features"), Error);
  const RotaryTable table = rotary_table(3, from_vector<float>({1, 0.5}, {2}));
  CHECK_THROWS_WITH_AS(rotary(x, table), doctest::Contains("positions 0 to 5 are beyond the table's 3 rows"), Error);
  CHECK_THROWS_WITH_AS(rotary(random({1, 2, 1, 4}), table), doctest::Contains("x is float64"), Error);
  CHECK_THROWS_WITH_AS(rotary(x, RotaryTable{zeros({5}), zeros({5})}), doctest::Contains("table must be [positions, pairs] twice"), Error);
  CHECK_THROWS_WITH_AS(rotary_table(3, zeros({2, 2})), doctest::Contains("expected frequencies [R / 2]"), Error);
}
