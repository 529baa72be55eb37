#include "weft/nn/positional.h"

#include <doctest/doctest.h>

#include <cmath>

#include "nn/module_check.h"

using namespace weft;
using testing::check_module;

TEST_CASE("AbsolutePositions: rows from an offset or by number, gradients") {
  AbsolutePositions positions({.max_len = 7, .dim = 3});
  CHECK(positions(2, 5).to_vector<float>() == slice(positions.weight, 0, 5, 7).to_vector<float>());
  const Tensor ids = from_vector<int64_t>({6, 0, 6}, {1, 3});
  CHECK(positions.at_positions(ids).shape() == Shape({1, 3, 3}));
  check_module(AbsolutePositions({.max_len = 7, .dim = 3}), {},
               [](const AbsolutePositions& module, const std::vector<Tensor>&) { return module(4, 2); });
  check_module(AbsolutePositions({.max_len = 7, .dim = 3}), {},
               [&](const AbsolutePositions& module, const std::vector<Tensor>&) { return module.at_positions(ids); });
  CHECK_THROWS_WITH_AS(positions(3, 5), doctest::Contains("positions 5 to 8 are beyond the longest sequence, 7"), Error);
  CHECK_THROWS_WITH_AS(AbsolutePositions({.max_len = 0, .dim = 3}), doctest::Contains("max_len and dim must be at least 1"), Error);
}

TEST_CASE("sinusoidal positions: sines and cosines, split or interleaved, from an offset") {
  const TensorOptions options{.dtype = DType::float64};
  const Tensor split_table = sinusoidal_positions(5, 6, 2, 10000, true, options);
  const Tensor interleaved = sinusoidal_positions(5, 6, 2, 10000, false, options);
  for (int64_t p = 0; p < 5; ++p) {
    for (int64_t i = 0; i < 3; ++i) {
      const double angle = static_cast<double>(p + 2) * std::pow(10000.0, -2.0 * static_cast<double>(i) / 6);
      CHECK(testing::on_host<double>(split_table)[p * 6 + i] == doctest::Approx(std::sin(angle)));
      CHECK(testing::on_host<double>(split_table)[p * 6 + 3 + i] == doctest::Approx(std::cos(angle)));
      CHECK(testing::on_host<double>(interleaved)[p * 6 + 2 * i] == doctest::Approx(std::sin(angle)));
      CHECK(testing::on_host<double>(interleaved)[p * 6 + 2 * i + 1] == doctest::Approx(std::cos(angle)));
    }
  }
  CHECK_THROWS_WITH_AS(sinusoidal_positions(5, 7), doctest::Contains("dim must be even and at least 2, got 7"), Error);
  CHECK_THROWS_WITH_AS(sinusoidal_positions(-1, 8), doctest::Contains("n and offset must not be negative"), Error);
}

TEST_CASE("ALiBi: slopes of the paper, bias aligned at the last key") {
  CHECK(alibi_slopes(8).to_vector<float>() ==
        std::vector<float>{0.5F, 0.25F, 0.125F, 0.0625F, 0.03125F, 0.015625F, 0.0078125F, 0.00390625F});
  const std::vector<float> six = alibi_slopes(6).to_vector<float>();
  CHECK(six[3] == doctest::Approx(std::exp2(-8)));
  CHECK(six[4] == doctest::Approx(std::exp2(-1)));  // every other slope of the sequence for eight heads
  CHECK(six[5] == doctest::Approx(std::exp2(-3)));
  const Tensor bias = alibi_bias(from_vector<float>({1, 0.5F}, {2}), 2, 3);
  CHECK(bias.shape() == Shape({2, 2, 3}));
  CHECK(bias.to_vector<float>() == std::vector<float>{-1, 0, -1, -2, -1, 0, -0.5F, 0, -0.5F, -1, -0.5F, 0});
  CHECK_THROWS_WITH_AS(alibi_slopes(0), doctest::Contains("heads must be at least 1"), Error);
  CHECK_THROWS_WITH_AS(alibi_bias(zeros({2, 2}), 2, 3), doctest::Contains("expected slopes [H]"), Error);
  CHECK_THROWS_WITH_AS(alibi_bias(zeros({2}), -1, 3), doctest::Contains("lengths must not be negative"), Error);
}
