// Softmax and log-softmax against plain loops in double: every axis, masks that broadcast, rows that nothing is left of.

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

constexpr double inf = std::numeric_limits<double>::infinity();

Tensor normal(const Shape& shape, DType dtype = DType::float64, double std = 1) { return randn(shape, 0, std, {.dtype = dtype}); }
std::vector<double> values(const Tensor& x) { return to(x, DType::float64).to_vector<double>(); }
Tensor random_mask(const Shape& shape) { return keep_mask(shape, 0.4, default_generator().next()); }

// The element of `mask` that belongs to element e of `shape`.
bool mask_at(const std::vector<bool>& mask, const Shape& mask_shape, const Shape& shape, int64_t e) {
  int64_t offset = 0, stride = 1;
  for (int i = 0; i < mask_shape.rank(); ++i) {
    const int64_t size = mask_shape.back(i), full = shape.back(i);
    offset += size == 1 ? 0 : e % full * stride;
    stride *= size;
    e /= full;
  }
  return mask[static_cast<size_t>(offset)];
}

struct Plain {
  std::vector<double> softmax, log_softmax;
};
Plain plain(const Tensor& x, int axis, const Tensor& mask) {
  const auto v = values(x);
  const auto m = mask.defined() ? mask.to_vector<bool>() : std::vector<bool>();
  int64_t inner = 1;
  for (int i = axis + 1; i < x.rank(); ++i) inner *= x.shape()[i];
  const int64_t length = x.shape()[axis];
  Plain result{v, v};
  for (int64_t start = 0; start < x.numel(); ++start) {
    if (start / inner % length != 0) continue;
    double largest = -inf, total = 0;
    const auto visible = [&](int64_t l) { return m.empty() || mask_at(m, mask.shape(), x.shape(), start + l * inner); };
    for (int64_t l = 0; l < length; ++l) {
      if (visible(l)) largest = std::max(largest, v[static_cast<size_t>(start + l * inner)]);
    }
    for (int64_t l = 0; l < length && largest > -inf; ++l) {
      if (visible(l)) total += std::exp(v[static_cast<size_t>(start + l * inner)] - largest);
    }
    for (int64_t l = 0; l < length; ++l) {
      const auto e = static_cast<size_t>(start + l * inner);
      const bool counts = visible(l) && largest > -inf;
      result.softmax[e] = counts ? std::exp(v[e] - largest) / total : 0;
      result.log_softmax[e] = counts ? v[e] - largest - std::log(total) : -inf;
    }
  }
  return result;
}

int64_t count_different(const Tensor& x, const std::vector<double>& expected, double tolerance) {
  const auto found = values(x);
  int64_t different = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const bool same = found[i] == expected[i] || std::fabs(found[i] - expected[i]) <= tolerance * (1 + std::fabs(expected[i]));
    different += same ? 0 : 1;
  }
  return different;
}

void check_against_loops(const Tensor& x, int axis, const Tensor& mask = {}) {
  CAPTURE(to_string(x.shape()));
  CAPTURE(axis);
  CAPTURE(mask);
  const double tolerance = x.dtype() == DType::float64 ? 1e-14 : 2e-6;
  const Plain expected = plain(x, axis, mask);
  CHECK(count_different(softmax(x, axis, mask), expected.softmax, tolerance) == 0);
  CHECK(count_different(log_softmax(x, axis, mask), expected.log_softmax, tolerance) == 0);
}

TEST_CASE("softmax agrees with plain loops along every axis at any size") {
  manual_seed(1);
  for (DType dtype : {DType::float32, DType::float64}) {
    for (int64_t n : {1, 2, 7, 16, 17, 33, 65, 300, 5000}) {
      check_against_loops(normal({3, n}, dtype, 3), 1);
      check_against_loops(normal({n, 3}, dtype, 3), 0);
      check_against_loops(normal({2, n, 5}, dtype, 3), 1);
    }
    for (int64_t columns : {2, 15, 64, 65, 1023, 1030}) check_against_loops(normal({2, 9, columns}, dtype, 3), 1);
    check_against_loops(normal({33, 700}, dtype), 0);
    check_against_loops(normal({4}, dtype), 0);
    check_against_loops(normal({0, 4}, dtype), 1);
    check_against_loops(normal({4, 0}, dtype), 1);
  }
}

TEST_CASE("softmax takes any mask that broadcasts, rows without a true are zeros") {
  manual_seed(2);
  const Tensor x = normal({2, 3, 5, 33}, DType::float64, 2);
  for (const Shape& shape : {Shape({2, 3, 5, 33}), Shape({33}), Shape({5, 33}), Shape({2, 1, 1, 33}), Shape({3, 1, 33}),
                             Shape({2, 1, 5, 33}), Shape({2, 3, 5, 1}), Shape({1, 1, 1, 1}), Shape({}), Shape({2, 1, 5, 1})}) {
    Tensor mask = random_mask(shape);
    if (mask.rank() >= 2) std::fill_n(testing::on_host<bool>(mask).data(), mask.size(-1), false);  // an empty row
    for (int axis : {3, 2, 0}) {
      check_against_loops(x, axis, mask);
      check_against_loops(to(x, DType::float32), axis, mask);
    }
  }
  const Tensor nothing = full({33}, 0, {.dtype = DType::boolean});
  CHECK(values(softmax(x, -1, nothing)) == std::vector<double>(static_cast<size_t>(x.numel()), 0.0));
  CHECK(values(log_softmax(x, -1, nothing)) == std::vector<double>(static_cast<size_t>(x.numel()), -inf));
}

TEST_CASE("softmax is stable: huge scores, -infinities, NaN only where it came from") {
  const Tensor x = from_vector<float>({2e38F, 2e38F, -1e38F, -1e30F, 0, 1e30F}, {2, 3});
  for (int axis : {1, 0}) check_against_loops(x, axis);
  const float low = -std::numeric_limits<float>::infinity(), bad = std::numeric_limits<float>::quiet_NaN();
  const Tensor rows = from_vector<float>({low, low, low, 0, low, 0, bad, 0, 0}, {3, 3});
  const auto y = values(softmax(rows));
  CHECK(std::vector<double>(y.begin(), y.begin() + 6) == std::vector<double>{0, 0, 0, 0.5, 0, 0.5});
  CHECK(std::isnan(y[7]));
  const auto columns = values(softmax(rows, 0));
  CHECK(columns[1] == 0);
  CHECK(columns[4] == 0);
  CHECK(columns[7] == 1);
  CHECK(std::isnan(columns[3]));
  const Tensor hidden = from_vector<bool>({true, true, true, true, true, true, false, true, true}, {3, 3});
  CHECK(values(softmax(rows, -1, hidden))[8] == 0.5);  // a masked NaN is not looked at
}

TEST_CASE("gradients of softmax and log_softmax, with and without masks") {
  manual_seed(3);
  for (const Shape& shape : {Shape({1}), Shape({7}), Shape({3, 33}), Shape({2, 7, 5})}) {
    const Tensor x = normal(shape);
    const Tensor mask = random_mask(shape);
    testing::on_host<bool>(mask.viewed_as({mask.numel()}).rows(0, 1))[0] = true;
    for (int axis = 0; axis < x.rank(); ++axis) {
      gradcheck([&](const std::vector<Tensor>& in) { return softmax(in[0], axis); }, {x});
      gradcheck([&](const std::vector<Tensor>& in) { return log_softmax(in[0], axis); }, {x});
      gradcheck([&](const std::vector<Tensor>& in) { return softmax(in[0], axis, mask); }, {x});
      // Masked elements are -infinity: compare what is left.
      gradcheck([&](const std::vector<Tensor>& in) { return where(mask, log_softmax(in[0], axis, mask), zeros_like(in[0])); }, {x});
    }
  }
}

TEST_CASE("fully masked rows have zero gradients, never NaN") {
  manual_seed(4);
  for (int axis : {0, 1}) {
    Tensor mask = full({5, 5}, 1, {.dtype = DType::boolean});
    for (int64_t i = 0; i < 5; ++i) testing::on_host<bool>(mask)[axis == 1 ? 2 * 5 + i : i * 5 + 2] = false;
    Tensor x = parameter(normal({5, 5}));
    for (const Tensor& y : {softmax(x, axis, mask), log_softmax(x, axis, mask)}) {
      zero_grad(x);
      backward(y, normal({5, 5}));
      const auto dx = values(grad(x));
      for (int64_t i = 0; i < 25; ++i) {
        const bool masked = (axis == 1 ? i / 5 : i % 5) == 2;
        CHECK((masked ? dx[static_cast<size_t>(i)] == 0 : std::isfinite(dx[static_cast<size_t>(i)]) && dx[static_cast<size_t>(i)] != 0));
      }
    }
  }
}

TEST_CASE("softmax gives the same bits for any number of threads") {
  manual_seed(5);
  const Tensor x = normal({300, 257}, DType::float32);
  const auto all = [&] {
    std::vector<std::vector<float>> results;
    for (int axis : {0, 1}) {
      Tensor p = parameter(clone(x));
      const Tensor y = softmax(p, axis);
      backward(y, x);
      results.push_back(y.to_vector<float>());
      results.push_back(grad(p).to_vector<float>());
    }
    return results;
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

TEST_CASE("errors of softmax") {
  const Tensor x = normal({2, 3});
  CHECK_THROWS_WITH_AS(softmax(scalar(1)), "softmax: expected at least 1 dimension, got a scalar", Error);
  CHECK_THROWS_WITH_AS(softmax(x, 1, zeros({2, 3})), "softmax: expected a bool mask, got float32 [2, 3]", Error);
  const Tensor longer = full({2, 2, 3}, 1, {.dtype = DType::boolean});
  CHECK_THROWS_WITH_AS(log_softmax(x, 1, longer), "log_softmax: the mask [2, 2, 3] does not broadcast to x [2, 3]", Error);
  CHECK_THROWS_AS(softmax(x, 2), Error);
}

}  // namespace
}  // namespace weft
