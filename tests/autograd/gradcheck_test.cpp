// gradcheck itself: it passes right backwards, catches planted wrong ones and says where.
#include "weft/autograd/gradcheck.h"

#include <doctest/doctest.h>

#include <limits>

#include "testing.h"
#include "weft/autograd/ops.h"

using namespace weft;
using weft::testing::error_of, weft::testing::has;

namespace {

const TensorOptions f64{.dtype = DType::float64};
using Inputs = std::vector<Tensor>;

Tensor sample(const Shape& shape) {
  static Generator generator(11);
  return randn(shape, 0, 1, f64, &generator);
}

// x^2 whose gradient at element `at` is too large by `error`.
Tensor wrong_square(const Tensor& x, size_t at, double error) {
  Tensor y;
  {
    const NoGrad no_grad;
    y = square(x);
  }
  return record(
      "wrong_square", y, {x},
      [x = detach(x), at, error](const Tensor& dy) -> Grads {
        auto slope = mul_scalar(x, 2).to_vector<double>();
        slope[at] += error;
        return {mul(dy, from_vector(slope, x.shape()))};
      },
      Location::current());
}

}  // namespace

TEST_CASE("gradcheck: a right backward passes, every element or one direction") {
  const auto f = [](const Inputs& in) { return mul(tanh(in[0]), in[1]); };
  for (const bool every_element : {true, false}) {
    const GradcheckReport report = gradcheck(f, {sample({3, 7}), sample({7})}, {.every_element = every_element});
    CHECK(report.passed);
    CHECK(report.checked == (every_element ? 28 : 1));
    CHECK(report.failed == 0);
    CHECK(has(report.message, "gradcheck: 0 of "));
  }
}

TEST_CASE("gradcheck: a planted error is found, and the input and element are named") {
  const Inputs in = {sample({4}), sample({2, 3})};
  const auto f = [](const Inputs& v) { return std::vector<Tensor>{square(v[0]), wrong_square(v[1], 5, 1e-3)}; };
  const GradcheckReport report = gradcheck(f, in, {.throws = false});
  CHECK(!report.passed);
  CHECK(report.failed == 1);
  CHECK(report.checked == 10);
  CHECK(report.input == 1);
  CHECK(report.element == 5);
  CHECK(report.analytic != report.numeric);
  const std::string error = error_of([&] { gradcheck(f, in); });
  CHECK(has(error,
            "gradcheck: 1 of 10 derivatives disagree; the largest difference is at element [1, 2] of input 1 (float64 [2, 3]): analytic "));
  CHECK(has(error, ", numeric "));
  CHECK(has(error_of([&] { gradcheck(f, in, {.names = {"q", "k"}}); }), "at element [1, 2] of k (float64 [2, 3])"));
  CHECK(has(error_of([&] { gradcheck(f, in, {.every_element = false}); }), "the largest difference is along a random direction"));
}

TEST_CASE("gradcheck: errors just above the tolerance are found, those below are not") {
  const auto with_error = [](double error) {
    return gradcheck([error](const Inputs& v) { return wrong_square(v[0], 0, error); }, {ones({1}, f64)}, {.throws = false}).passed;
  };
  // The slope is 2 and the cotangent c: allowed are 1e-7 + 1e-5 * |2 c|.
  CHECK(with_error(1e-6));
  CHECK(!with_error(1e-3));
}

TEST_CASE("gradcheck: a backward that returns nothing counts as zero") {
  const auto none = [](const Inputs& v) {
    Tensor y;
    {
      const NoGrad no_grad;
      y = add(v[0], v[1]);
    }
    return record(
        "none", y, {v[0], v[1]},
        [](const Tensor& dy) -> Grads {
          return {dy, Tensor()};
        },
        Location::current());
  };
  const GradcheckReport report = gradcheck(none, {sample({3}), sample({3})}, {.throws = false});
  CHECK(report.failed == 3);
  CHECK(report.input == 1);
  CHECK(report.analytic == 0);
}

TEST_CASE("gradcheck: NaN disagrees, infinities that stay do not matter") {
  const auto poisoned = [](const Inputs& v) {
    return record(
        "poisoned", detach(v[0]).viewed_as(v[0].shape()), {v[0]},
        [](const Tensor& dy) -> Grads { return {full(dy.shape(), std::numeric_limits<double>::quiet_NaN(), f64)}; }, Location::current());
  };
  CHECK(gradcheck(poisoned, {sample({2})}, {.throws = false}).failed == 2);
  const Tensor mask = from_vector<bool>({true, false, false}, {3});
  CHECK(
      gradcheck([&](const Inputs& v) { return masked_fill(v[0], mask, -std::numeric_limits<double>::infinity()); }, {sample({3})}).passed);
}

TEST_CASE("gradcheck: integer and bool inputs and outputs are passed along") {
  const Tensor mask = from_vector<bool>({true, false, true}, {3});
  const auto f = [](const Inputs& v) { return std::vector<Tensor>{where(v[0], v[1], neg(v[1])), less(v[1], v[1])}; };
  const GradcheckReport report = gradcheck(f, {mask, sample({3})});
  CHECK(report.checked == 3);
}

TEST_CASE("gradcheck: errors") {
  const auto f = [](const Inputs& v) { return square(v[0]); };
  CHECK(error_of([&] { gradcheck(f, {zeros({2})}); }) == "gradcheck: input 0 is float32 [2]; differences need float64");
  CHECK(error_of([&] { gradcheck(f, {Tensor()}); }) == "gradcheck: input 0 is undefined");
  const GradcheckFunction same = [](const std::vector<Tensor>& in) { return std::vector<Tensor>{in[0] * 2.0}; };
  for (const bool every_element : {false, true}) {
    const GradcheckReport report = gradcheck(same, {zeros({0, 3}, {.dtype = DType::float64})}, {.every_element = every_element});
    CHECK(report.checked == 0);
    CHECK(report.message == "gradcheck: there is nothing to compare, no float64 input has an element");
  }
  CHECK(error_of([&] { gradcheck([](const Inputs& v) { return to(v[0], DType::float32); }, {zeros({2}, f64)}); }) ==
        "gradcheck: an output is float32 [2]; the function must compute in float64");
  CHECK(error_of([&] { gradcheck([](const Inputs& v) { return detach(v[0]); }, {zeros({2}, f64)}); }) ==
        "gradcheck: no output depends on a float64 input through the graph");
  CHECK(error_of([&] { gradcheck([](const Inputs& v) { return dropout(v[0], 0.5, default_generator().next()); }, {ones({50}, f64)}); }) ==
        "gradcheck: the function gives different values for the same inputs; fix its random numbers with a RandomKey");
}
