// Reductions against plain loops in double, their gradients, and their promises: any axes, any size, the same bits for any thread count.

#include <cmath>
#include <functional>
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
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

Tensor normal(const Shape& shape, DType dtype = DType::float64) { return randn(shape, {.dtype = dtype}); }

std::vector<double> values(const Tensor& x) { return to(x, DType::float64).to_vector<double>(); }

// The elements of x behind each element of the result, in order.
std::vector<std::vector<double>> groups_of(const Tensor& x, std::vector<int> axes) {
  std::vector<bool> reduced(static_cast<size_t>(x.rank()), axes.empty());
  for (int axis : axes) reduced[static_cast<size_t>(axis < 0 ? axis + x.rank() : axis)] = true;
  int64_t results = 1;
  for (int i = 0; i < x.rank(); ++i) results *= reduced[static_cast<size_t>(i)] ? 1 : x.shape()[i];
  std::vector<std::vector<double>> groups(static_cast<size_t>(results));
  const auto elements = values(x);
  for (int64_t e = 0; e < x.numel(); ++e) {
    int64_t rest = e, at = 0, stride = 1;
    for (int i = x.rank() - 1; i >= 0; --i) {
      if (!reduced[static_cast<size_t>(i)]) {
        at += rest % x.shape()[i] * stride;
        stride *= x.shape()[i];
      }
      rest /= x.shape()[i];
    }
    groups[static_cast<size_t>(at)].push_back(elements[static_cast<size_t>(e)]);
  }
  return groups;
}

double plain_sum(const std::vector<double>& g) {
  double total = 0;
  for (double v : g) total += v;
  return total;
}
double plain_mean(const std::vector<double>& g) { return plain_sum(g) / static_cast<double>(g.size()); }
double plain_max(const std::vector<double>& g) {
  double largest = -inf;
  for (double v : g) largest = std::isnan(v) || v > largest ? v : largest;
  return largest;
}
double plain_min(const std::vector<double>& g) {
  double smallest = inf;
  for (double v : g) smallest = std::isnan(v) || v < smallest ? v : smallest;
  return smallest;
}
double plain_logsumexp(const std::vector<double>& g) {
  const double m = plain_max(g);
  if (std::isinf(m)) return m;
  double total = 0;
  for (double v : g) total += std::exp(v - m);
  return m + std::log(total);
}

struct Case {
  const char* name;
  std::function<Tensor(const Tensor&, const std::vector<int>&, bool)> op;
  double (*plain)(const std::vector<double>&);
};
const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"sum", [](auto& x, auto& axes, bool keep) { return sum(x, axes, keep); }, plain_sum},
      {"mean", [](auto& x, auto& axes, bool keep) { return mean(x, axes, keep); }, plain_mean},
      {"max", [](auto& x, auto& axes, bool keep) { return max(x, axes, keep); }, plain_max},
      {"min", [](auto& x, auto& axes, bool keep) { return min(x, axes, keep); }, plain_min},
      {"logsumexp", [](auto& x, auto& axes, bool keep) { return logsumexp(x, axes, keep); }, plain_logsumexp}};
  return all;
}

void check_against_loops(const Tensor& x, const std::vector<int>& axes) {
  const auto groups = groups_of(x, axes);
  const double eps = x.dtype() == DType::float64 ? 1e-14 : 1e-6;
  for (const Case& c : cases()) {
    CAPTURE(c.name);
    CAPTURE(to_string(x.shape()));
    CAPTURE(axes.size());
    const auto found = values(c.op(x, axes, false));
    REQUIRE(found.size() == groups.size());
    int64_t wrong = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      const double expected = c.plain(groups[i]);
      // Rounding errors of a sum are relative to the sum of magnitudes.
      const double scale = 1 + std::sqrt(static_cast<double>(groups[i].size()));
      if (!(std::fabs(found[i] - expected) <= 4 * eps * scale)) ++wrong;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("reductions agree with plain loops for every set of axes") {
  manual_seed(1);
  for (DType dtype : {DType::float32, DType::float64}) {
    const Tensor x = normal({3, 1, 7, 2, 33}, dtype);
    for (unsigned bits = 0; bits < 32; ++bits) {
      std::vector<int> axes;
      for (int i = 4; i >= 0; --i) {
        if ((bits >> i & 1U) != 0) axes.push_back(i % 2 == 0 ? i : i - 5);
      }
      check_against_loops(x, axes);
    }
  }
}

TEST_CASE("reductions agree with plain loops at sizes around vectors, tiles and pieces") {
  manual_seed(2);
  for (int64_t n : {1, 2, 7, 8, 15, 16, 17, 33, 63, 64, 65, 1000, 1025, 4097, 40000, 200001}) {
    check_against_loops(normal({n}, DType::float32), {});
    check_against_loops(normal({2, n}, DType::float32), {-1});
    check_against_loops(normal({n, 2}, DType::float32), {0});
  }
  for (int64_t columns : {1, 3, 8, 31, 64, 127, 128, 129, 255, 1023, 1025, 3000}) {
    check_against_loops(normal({65, columns}, DType::float32), {0});
    check_against_loops(normal({3, 37, columns}), {1});
    check_against_loops(normal({700, columns}, DType::float32), {0});
  }
}

TEST_CASE("reductions keep axes as size 1 on request and take scalars") {
  const Tensor x = normal({2, 3, 4});
  CHECK(sum(x, {1}).shape() == Shape({2, 4}));
  CHECK(sum(x, {1}, true).shape() == Shape({2, 1, 4}));
  CHECK(max(x, {-1, 0}, true).shape() == Shape({1, 3, 1}));
  CHECK(mean(x).shape() == Shape());
  CHECK(sum(x, {}, true).shape() == Shape({1, 1, 1}));
  const Tensor s = scalar(2.5, {.dtype = DType::float64});
  CHECK(sum(s).item() == 2.5);
  CHECK(logsumexp(s).item() == doctest::Approx(2.5).epsilon(1e-15));
}

TEST_CASE("empty reductions: a sum of nothing is 0, a largest of nothing is an error") {
  const Tensor x = zeros({3, 0, 2}, {.dtype = DType::float64});
  CHECK(values(sum(x, {1})) == std::vector<double>(6, 0.0));
  CHECK(values(logsumexp(x, {1})) == std::vector<double>(6, -inf));
  CHECK(std::isnan(mean(x).item()));
  CHECK(sum(x, {0}).shape() == Shape({0, 2}));
  CHECK(max(x, {0}).shape() == Shape({0, 2}));
  CHECK_THROWS_WITH_AS(max(x, {1}), "max: float64 [3, 0, 2] has no element along the reduced axes", Error);
  CHECK_THROWS_WITH_AS(min(x), "min: float64 [3, 0, 2] has no element along the reduced axes", Error);
  CHECK_THROWS_WITH_AS(argmax(x, 1), "argmax: float64 [3, 0, 2] has no element along axis 1", Error);
  CHECK_THROWS_WITH_AS(argmin(x, 1), "argmin: float64 [3, 0, 2] has no element along axis 1", Error);
  Tensor p = parameter(x);
  backward(sum(sum(p, {1})));
  CHECK(grad(p).shape() == Shape({3, 0, 2}));
}

TEST_CASE("NaN and infinities go through") {
  for (int64_t n : {3, 40, 5000}) {
    for (int64_t at : {int64_t{0}, n / 2, n - 1}) {
      std::vector<float> v(static_cast<size_t>(n), -1.0F);
      v[static_cast<size_t>(at)] = std::numeric_limits<float>::quiet_NaN();
      for (const Shape& shape : {Shape({n}), Shape({n, 1})}) {
        const Tensor x = from_vector(v, shape);
        for (const Case& c : cases()) {
          CAPTURE(c.name);
          CHECK(std::isnan(c.op(x, {}, false).item()));
        }
        CHECK(argmax(x, 0).to_vector<int64_t>() == std::vector<int64_t>{at});
        CHECK(argmin(x, 0).to_vector<int64_t>() == std::vector<int64_t>{at});
      }
      std::vector<float> twice;
      for (float element : v) twice.insert(twice.end(), {element, element});
      const Tensor two = from_vector(twice, {n, 2});
      CHECK(std::isnan(values(max(two, {0}))[1]));
      CHECK(argmax(two, 0).to_vector<int64_t>() == std::vector<int64_t>{at, at});
    }
  }
  const Tensor x = from_vector<double>({-inf, -inf, 1, inf, -inf, 2}, {3, 2});
  CHECK(values(logsumexp(x, {1})) == std::vector<double>{-inf, inf, 2});
  CHECK(values(logsumexp(x, {0}))[1] == inf);
  const Tensor far = from_vector<float>({3e38F, 3e38F, -3e38F, -3e38F}, {2, 2});
  CHECK(values(logsumexp(far, {1}))[0] == doctest::Approx(3e38));
  CHECK(values(logsumexp(far, {0}))[0] == doctest::Approx(3e38));
}

TEST_CASE("float32 sums keep their precision over millions of elements") {
  const int64_t n = 3000001;
  const Tensor x = full({n}, 0.1);
  const double exact = static_cast<double>(0.1F) * static_cast<double>(n);
  CHECK(std::fabs(sum(x).item() - exact) / exact < 1e-6);
  const Tensor columns = full({n / 3, 3}, 0.1);
  CHECK(std::fabs(values(sum(columns, {0}))[2] - exact / 3) / exact < 1e-6);
}

TEST_CASE("reductions and running sums give the same bits for any number of threads") {
  manual_seed(3);
  const Tensor flat = normal({300007}, DType::float32), table = normal({517, 1031}, DType::float32);
  const auto all = [&] {
    std::vector<std::vector<float>> results;
    for (const Case& c : cases()) {
      results.push_back(c.op(flat, {}, false).to_vector<float>());
      for (const std::vector<int>& axes : {std::vector<int>{0}, {1}, {0, 1}})
        results.push_back(c.op(table, axes, false).to_vector<float>());
    }
    for (int axis : {0, 1}) results.push_back(cumsum(table, axis).to_vector<float>());
    results.push_back(cumsum(flat, 0).to_vector<float>());
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

TEST_CASE("gradients of reductions") {
  manual_seed(4);
  const Tensor x = normal({3, 7, 1, 5});
  for (const std::vector<int>& axes : {std::vector<int>{}, {0}, {1}, {-1}, {0, 3}, {3, 1}, {2}, {0, 1, 2}}) {
    for (const Case& c : cases()) {
      CAPTURE(c.name);
      gradcheck([&](const std::vector<Tensor>& in) { return c.op(in[0], axes, false); }, {x});
      gradcheck([&](const std::vector<Tensor>& in) { return c.op(in[0], axes, true); }, {x});
    }
  }
  gradcheck([](const std::vector<Tensor>& in) { return sum_to(in[0], {7, 1, 1}); }, {x});
  for (int axis : {0, 1, 3}) {
    gradcheck([&](const std::vector<Tensor>& in) { return cumsum(in[0], axis); }, {x});
  }
  const Tensor wide = normal({2, 9000});  // several pieces, several vectors
  for (const Case& c : cases()) {
    gradcheck([&](const std::vector<Tensor>& in) { return c.op(in[0], {1}, false); }, {wide}, {.every_element = false});
    gradcheck([&](const std::vector<Tensor>& in) { return c.op(in[0], {0}, false); }, {wide}, {.every_element = false});
  }
}

TEST_CASE("ties share the gradient of max and min, an all -infinity logsumexp has none") {
  Tensor p = parameter(from_vector<double>({2, 1, 2, 2, 0, 0}, {2, 3}));
  backward(max(p, {1}), from_vector<double>({6, 5}, {2}));
  CHECK(values(grad(p)) == std::vector<double>{3, 0, 3, 5, 0, 0});
  zero_grad(p);
  backward(min(p), scalar(4, {.dtype = DType::float64}));
  CHECK(values(grad(p)) == std::vector<double>{0, 0, 0, 0, 2, 2});
  Tensor with_nan = parameter(from_vector<double>({2, nan, 2}, {3}));
  backward(max(with_nan));
  CHECK(values(grad(with_nan)) == std::vector<double>{0, 1, 0});
  Tensor lowest = parameter(from_vector<double>({-inf, -inf, -inf, 1}, {2, 2}));
  backward(logsumexp(lowest, {1}), from_vector<double>({1, 3}, {2}));
  CHECK(values(grad(lowest)) == std::vector<double>{0, 0, 0, 3});
}

TEST_CASE("argmax finds the first largest along any axis, argmin the first smallest") {
  manual_seed(5);
  for (const Shape& shape : {Shape({1}), Shape({257}), Shape({5, 33}), Shape({7, 600}), Shape({3, 9, 5})}) {
    const Tensor x = to(randint(6, shape), DType::float32);  // many ties
    const auto v = values(x);
    for (int axis = 0; axis < x.rank(); ++axis) {
      int64_t inner = 1;
      for (int i = axis + 1; i < x.rank(); ++i) inner *= shape[i];
      const int64_t length = shape[axis], outer = x.numel() / (inner * length);
      std::vector<int64_t> expected;
      for (int64_t o = 0; o < outer; ++o) {
        for (int64_t i = 0; i < inner; ++i) {
          int64_t best = 0;
          for (int64_t l = 1; l < length; ++l) {
            if (v[static_cast<size_t>((o * length + l) * inner + i)] > v[static_cast<size_t>((o * length + best) * inner + i)]) best = l;
          }
          expected.push_back(best);
        }
      }
      CHECK(argmax(x, axis).to_vector<int64_t>() == expected);
      CHECK(argmin(-x, axis).to_vector<int64_t>() == expected);
    }
  }
}

TEST_CASE("cumsum along any axis, for short and long lines") {
  manual_seed(6);
  for (const Shape& shape : {Shape({1}), Shape({5}), Shape({3, 7}), Shape({9, 33}), Shape({4, 5, 6}), Shape({2, 9001}), Shape({50000}),
                             Shape({130, 1030}), Shape({0, 4})}) {
    const Tensor x = normal(shape, DType::float32);
    const auto v = values(x);
    for (int axis = 0; axis < x.rank(); ++axis) {
      int64_t inner = 1;
      for (int i = axis + 1; i < x.rank(); ++i) inner *= shape[i];
      std::vector<double> expected = v;
      for (int64_t e = 0; e < x.numel(); ++e) {
        if (e / inner % shape[axis] > 0) expected[static_cast<size_t>(e)] += expected[static_cast<size_t>(e - inner)];
      }
      const auto found = values(cumsum(x, axis));
      double worst = 0;
      for (size_t e = 0; e < expected.size(); ++e)
        worst = std::max(worst, std::fabs(found[e] - expected[e]) / (1 + std::fabs(expected[e])));
      CHECK(worst < 1e-7);
    }
  }
}

TEST_CASE("sum_to undoes broadcasting") {
  const Tensor x = normal({2, 3, 4});
  CHECK(values(sum_to(x, {3, 1})) == values(sum(x, {0, 2})));
  CHECK(values(sum_to(x, {})) == values(sum(x)));
  CHECK(sum_to(x, {2, 3, 4}).storage() == x.storage());
  CHECK_THROWS_WITH_AS(sum_to(x, {3, 2}), "sum_to: [3, 2] does not broadcast to [2, 3, 4], the shape of x", Error);
}

TEST_CASE("errors of reductions") {
  const Tensor x = normal({2, 3});
  CHECK_THROWS_WITH_AS(sum(x, {0, -2}), "sum: axis 0 is given twice for float64 [2, 3]", Error);
  CHECK_THROWS_AS(sum(x, {2}), Error);
  CHECK_THROWS_AS(cumsum(x, -3), Error);
  CHECK_THROWS_WITH_AS(sum(Tensor()), "sum: the tensor is undefined", Error);
  CHECK_THROWS_WITH_AS(mean(arange(3)), "mean: expected float32 or float64, got int64 [3]; convert with to(x, DType::float32)", Error);
}

}  // namespace
}  // namespace weft
