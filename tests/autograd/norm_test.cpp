// Norms against plain loops in double, their gradients at odd sizes, and their promises.

#include <cmath>
#include <limits>

#include "testing.h"
#include "weft/autograd/gradcheck.h"
#include "weft/autograd/ops.h"
#include "weft/core/device.h"
#include "weft/core/random.h"

namespace weft {
namespace {

using testing::ThreadCount;

Tensor normal(const Shape& shape, DType dtype = DType::float64, double mean = 0) { return randn(shape, mean, 1, {.dtype = dtype}); }
std::vector<double> values(const Tensor& x) { return to(x, DType::float64).to_vector<double>(); }

// y of rows of `size` elements; weight and bias repeat every `channel_size * channels` elements, `channel_size` elements each.
std::vector<double> plain_norm(const Tensor& x, int64_t size, bool centered, double eps, const Tensor& weight, const Tensor& bias,
                               int64_t channels, int64_t channel_size) {
  auto v = values(x);
  const auto w = weight.defined() ? values(weight) : std::vector<double>(static_cast<size_t>(channels), 1.0);
  const auto b = bias.defined() ? values(bias) : std::vector<double>(static_cast<size_t>(channels), 0.0);
  for (size_t row = 0; row < v.size(); row += static_cast<size_t>(size)) {
    double mean = 0, square = 0;
    for (size_t i = row; i < row + static_cast<size_t>(size); ++i) mean += centered ? v[i] / static_cast<double>(size) : 0;
    for (size_t i = row; i < row + static_cast<size_t>(size); ++i) square += (v[i] - mean) * (v[i] - mean) / static_cast<double>(size);
    for (size_t i = row; i < row + static_cast<size_t>(size); ++i) {
      const size_t c = i / static_cast<size_t>(channel_size) % static_cast<size_t>(channels);
      v[i] = (v[i] - mean) / std::sqrt(square + eps) * w[c] + b[c];
    }
  }
  return v;
}

double worst_difference(const Tensor& x, const std::vector<double>& expected) {
  const auto found = values(x);
  double worst = found.size() == expected.size() ? 0 : std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < found.size(); ++i) worst = std::max(worst, std::fabs(found[i] - expected[i]) / (1 + std::fabs(expected[i])));
  return worst;
}

TEST_CASE("layer_norm and rms_norm agree with plain loops") {
  manual_seed(1);
  for (DType dtype : {DType::float32, DType::float64}) {
    const double tolerance = dtype == DType::float64 ? 1e-13 : 3e-6;
    for (int64_t n : {1, 2, 7, 16, 33, 64, 65, 500, 3000}) {
      CAPTURE(n);
      const Tensor x = normal({2, 3, n}, dtype, 0.5), weight = normal({n}, dtype), bias = normal({n}, dtype);
      CHECK(worst_difference(layer_norm(x, weight, bias), plain_norm(x, n, true, 1e-5, weight, bias, n, 1)) < tolerance);
      CHECK(worst_difference(layer_norm(x, {}, {}, 0.1), plain_norm(x, n, true, 0.1, {}, {}, n, 1)) < tolerance);
      CHECK(worst_difference(layer_norm(x, weight), plain_norm(x, n, true, 1e-5, weight, {}, n, 1)) < tolerance);
      CHECK(worst_difference(rms_norm(x, weight, 1e-3), plain_norm(x, n, false, 1e-3, weight, {}, n, 1)) < tolerance);
      CHECK(worst_difference(rms_norm(x), plain_norm(x, n, false, dtype == DType::float64 ? 0x1p-52 : 0x1p-23, {}, {}, n, 1)) < tolerance);
    }
  }
  CHECK(layer_norm(normal({0, 3})).shape() == Shape({0, 3}));
  CHECK(layer_norm(normal({3, 0})).shape() == Shape({3, 0}));
  CHECK(layer_norm(normal({5})).shape() == Shape({5}));
}

TEST_CASE("group_norm agrees with plain loops") {
  manual_seed(2);
  for (DType dtype : {DType::float32, DType::float64}) {
    const double tolerance = dtype == DType::float64 ? 1e-13 : 3e-6;
    for (const Shape& shape : {Shape({2, 6}), Shape({2, 6, 7}), Shape({3, 6, 5, 33}), Shape({1, 6, 700})}) {
      const Tensor x = normal(shape, dtype, 0.5), weight = normal({6}, dtype), bias = normal({6}, dtype);
      const int64_t size = x.numel() / (shape[0] * 6);
      for (int64_t groups : {1, 2, 6}) {
        const int64_t row = 6 / groups * size;
        CHECK(worst_difference(group_norm(x, groups, weight, bias), plain_norm(x, row, true, 1e-5, weight, bias, 6, size)) < tolerance);
        CHECK(worst_difference(group_norm(x, groups), plain_norm(x, row, true, 1e-5, {}, {}, 6, size)) < tolerance);
      }
    }
  }
  CHECK(group_norm(normal({0, 4, 3}), 2).shape() == Shape({0, 4, 3}));
}

TEST_CASE("l2_normalize agrees with plain loops along every axis") {
  manual_seed(3);
  for (DType dtype : {DType::float32, DType::float64}) {
    for (const Shape& shape : {Shape({1}), Shape({5, 33}), Shape({3, 7, 5}), Shape({40, 1030}), Shape({0, 2})}) {
      const Tensor x = normal(shape, dtype);
      const auto v = values(x);
      for (int axis = 0; axis < x.rank(); ++axis) {
        int64_t inner = 1;
        for (int i = axis + 1; i < x.rank(); ++i) inner *= shape[i];
        std::vector<double> expected(v.size());
        for (int64_t e = 0; e < x.numel(); ++e) {
          const int64_t start = e - e / inner % shape[axis] * inner;
          double squares = 0;
          for (int64_t l = 0; l < shape[axis]; ++l) squares += std::pow(v[static_cast<size_t>(start + l * inner)], 2);
          expected[static_cast<size_t>(e)] = v[static_cast<size_t>(e)] / std::sqrt(squares);
        }
        CHECK(worst_difference(l2_normalize(x, axis), expected) < (dtype == DType::float64 ? 1e-14 : 1e-6));
      }
    }
  }
}

TEST_CASE("norms of values whose squares leave the range of float32") {
  const Tensor x = from_vector<float>({3e25F, 4e25F, -3e25F, 4e25F}, {2, 2});
  const std::vector<double> unit = {0.6, 0.8, -0.6, 0.8};
  CHECK(worst_difference(l2_normalize(x), unit) < 1e-6);
  CHECK(worst_difference(l2_normalize(from_vector<float>({3e25F, -3e25F, 4e25F, 4e25F}, {2, 2}), 0), {0.6, -0.6, 0.8, 0.8}) < 1e-6);
  CHECK(worst_difference(rms_norm(x), plain_norm(x, 2, false, 0, {}, {}, 2, 1)) < 1e-6);
  CHECK(worst_difference(layer_norm(x), plain_norm(x, 2, true, 0, {}, {}, 2, 1)) < 1e-6);
}

TEST_CASE("l2_normalize of vectors shorter than eps divides by eps") {
  Tensor x = parameter(from_vector<double>({0, 0, 3e-3, 4e-3, 3, 4}, {3, 2}));
  const Tensor y = l2_normalize(x, -1, 0.01);
  CHECK(worst_difference(y, {0, 0, 0.3, 0.4, 0.6, 0.8}) < 1e-15);
  backward(y, from_vector<double>({1, 2, 1, 2, 1, 2}, {3, 2}));
  CHECK(worst_difference(grad(x), {100, 200, 100, 200, (1 - 0.6 * 2.2) / 5, (2 - 0.8 * 2.2) / 5}) < 1e-13);
}

TEST_CASE("gradients of norms") {
  manual_seed(4);
  for (const Shape& shape : {Shape({1}), Shape({7}), Shape({3, 33}), Shape({2, 3, 5}), Shape({35, 4}), Shape({1, 130})}) {
    const int64_t n = shape.back();
    const Tensor x = normal(shape), weight = normal({n}), bias = normal({n});
    if (n > 1) {
      gradcheck([](const std::vector<Tensor>& in) { return layer_norm(in[0], in[1], in[2]); }, {x, weight, bias});
      gradcheck([](const std::vector<Tensor>& in) { return layer_norm(in[0], in[1], {}, 0.1); }, {x, weight});
      gradcheck([](const std::vector<Tensor>& in) { return layer_norm(in[0]); }, {x});
      gradcheck([&](const std::vector<Tensor>& in) { return layer_norm(x, in[0], in[1]); }, {weight, bias});
    }
    gradcheck([](const std::vector<Tensor>& in) { return rms_norm(in[0], in[1], 1e-3); }, {x, weight});
    gradcheck([](const std::vector<Tensor>& in) { return rms_norm(in[0], {}, 1e-3); }, {x});
    for (int axis = 0; axis < x.rank(); ++axis) {
      if (shape[axis] == 1) continue;  // the gradient is zero, and its difference quotient noise
      gradcheck([&](const std::vector<Tensor>& in) { return l2_normalize(in[0], axis); }, {x});
    }
  }
  for (const Shape& shape : {Shape({2, 6}), Shape({2, 6, 7}), Shape({3, 6, 1, 5}), Shape({1, 6, 33})}) {
    const Tensor x = normal(shape), weight = normal({6}), bias = normal({6});
    for (int64_t groups : {1, 2, 3}) {
      gradcheck([&](const std::vector<Tensor>& in) { return group_norm(in[0], groups, in[1], in[2]); }, {x, weight, bias});
      gradcheck([&](const std::vector<Tensor>& in) { return group_norm(in[0], groups); }, {x});
    }
  }
  gradcheck([](const std::vector<Tensor>& in) { return layer_norm(in[0], in[1], in[2]); }, {normal({2000, 9}), normal({9}), normal({9})},
            {.every_element = false});
}

TEST_CASE("norms and their gradients give the same bits for any number of threads") {
  manual_seed(5);
  const Tensor x = normal({1000, 65}, DType::float32), weight = normal({65}, DType::float32), bias = normal({65}, DType::float32);
  const auto all = [&] {
    Tensor px = parameter(clone(x)), pw = parameter(clone(weight)), pb = parameter(clone(bias));
    const Tensor y = layer_norm(px, pw, pb);
    backward(y, x);
    return std::vector<std::vector<float>>{y.to_vector<float>(), grad(px).to_vector<float>(), grad(pw).to_vector<float>(),
                                           grad(pb).to_vector<float>()};
  };
  std::vector<std::vector<float>> one, three;
  {
    ThreadCount scope(1);
    one = all();
  }
  {
    ThreadCount scope(3);
    three = all();
  }
  CHECK(one == three);
}

TEST_CASE("errors of norms") {
  const Tensor x = normal({2, 6});
  CHECK_THROWS_WITH_AS(layer_norm(scalar(1)), "layer_norm: expected at least 1 dimension, got a scalar", Error);
  CHECK_THROWS_WITH_AS(rms_norm(scalar(1)), "rms_norm: expected at least 1 dimension, got a scalar", Error);
  for (const double eps : {-1e-9, static_cast<double>(INFINITY), static_cast<double>(NAN)}) {
    CHECK_THROWS_WITH_AS(layer_norm(x, {}, {}, eps), doctest::Contains("layer_norm: eps must be finite and not negative"), Error);
    CHECK_THROWS_WITH_AS(rms_norm(x, {}, eps), doctest::Contains("rms_norm: eps must be finite"), Error);
    CHECK_THROWS_WITH_AS(group_norm(x, 2, {}, {}, eps), doctest::Contains("group_norm: eps must be finite"), Error);
    CHECK_THROWS_WITH_AS(l2_normalize(x, -1, eps), doctest::Contains("l2_normalize: eps must be finite"), Error);
  }
  CHECK_THROWS_WITH_AS(layer_norm(x, normal({5})), "layer_norm: weight should be [6] for x [2, 6], got [5]", Error);
  CHECK_THROWS_WITH_AS(layer_norm(x, {}, zeros({6})),
                       "layer_norm: x is float64 [2, 6], but bias is float32 [6]; convert one with to(x, DType::float64)", Error);
  CHECK_THROWS_WITH_AS(group_norm(normal({6}), 2), "group_norm: expected [batch, channels, ...], got float64 [6]", Error);
  CHECK_THROWS_WITH_AS(group_norm(x, 4), "group_norm: 6 channels cannot be split into 4 groups; x is float64 [2, 6]", Error);
  CHECK_THROWS_AS(l2_normalize(x, 2), Error);
}

}  // namespace
}  // namespace weft
