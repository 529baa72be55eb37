// Every row of elementwise.def, by expansion: values against the scalar formula and the C library, gradients against differences.
#include <map>
#include <string>

#include "autograd/elementwise_testing.h"

using namespace weft;
using namespace weft::testing;

TEST_CASE("elementwise: what a formula reads") {
  static_assert(formula_reads("x * x", 'x') && formula_reads("exp(x)", 'x') && formula_reads("x", 'x'));
  static_assert(!formula_reads("exp(-(y * y))", 'x') && !formula_reads("max(y, x1)", 'x') && !formula_reads("T(1)", 'x'));
  static_assert(formula_is_one("T(1)") && !formula_is_one("T(-1)"));
  static_assert(!formulas::tanh_formula::slope_reads_x && formulas::tanh_formula::slope_reads_y);
  static_assert(formulas::log_formula::slope_reads_x && !formulas::log_formula::slope_reads_y);
  static_assert(!formulas::mul_formula::slope_a_reads_a && formulas::mul_formula::slope_a_reads_b);
  static_assert(formulas::add_formula::slope_a_is_one && !formulas::sub_formula::slope_b_is_one);
  static_assert(!formulas::mul_scalar_formula::slope_reads_x && formulas::mul_scalar_formula::slope_reads_p);
}

TEST_CASE("elementwise: unary rows equal their scalar formula, and their gradients differences") {
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{7}, Shape{3, 11}, Shape{0}}) {
    for (DType dtype : {DType::float32, DType::float64}) {
#define UNARY(name, ...)                                                                                  \
  {                                                                                                       \
    INFO(#name, " ", to_string(shape), " ", to_text(dtype));                                              \
    using Formula = formulas::name##_formula;                                                             \
    const Tensor x = sample(shape, Formula::lowest, Formula::highest, dtype);                             \
    const auto in = values(x);                                                                            \
    check_values(name(x), [&](size_t i) { return Formula::value(in[i]); });                               \
    if (dtype == DType::float64) gradcheck([](const std::vector<Tensor>& v) { return name(v[0]); }, {x}); \
  }
#define UNARY_P(name, ...)                                                                                    \
  {                                                                                                           \
    INFO(#name, " ", to_string(shape), " ", to_text(dtype));                                                  \
    using Formula = formulas::name##_formula;                                                                 \
    const double p = Formula::parameter;                                                                      \
    const Tensor x = sample(shape, Formula::lowest, Formula::highest, dtype);                                 \
    const auto in = values(x);                                                                                \
    check_values(name(x, p), [&](size_t i) { return Formula::value(in[i], p); });                             \
    if (dtype == DType::float64) gradcheck([p](const std::vector<Tensor>& v) { return name(v[0], p); }, {x}); \
  }
#include "weft/core/elementwise.def"
#undef UNARY
#undef UNARY_P
    }
  }
}

TEST_CASE("elementwise: unary rows equal the C library") {
  const auto sigma = [](double x) { return 1 / (1 + std::exp(-x)); };
  const std::map<std::string, std::function<double(double)>> library = {
      {"neg", [](double x) { return -x; }},
      {"abs", [](double x) { return std::fabs(x); }},
      {"sign", [](double x) { return x > 0   ? 1
                                     : x < 0 ? -1
                                             : x; }},
      {"floor", [](double x) { return std::floor(x); }},
      {"round", [](double x) { return std::nearbyint(x); }},
      {"square", [](double x) { return x * x; }},
      {"sqrt", [](double x) { return std::sqrt(x); }},
      {"rsqrt", [](double x) { return 1 / std::sqrt(x); }},
      {"reciprocal", [](double x) { return 1 / x; }},
      {"exp", [](double x) { return std::exp(x); }},
      {"expm1", [](double x) { return std::expm1(x); }},
      {"log", [](double x) { return std::log(x); }},
      {"log1p", [](double x) { return std::log1p(x); }},
      {"sin", [](double x) { return std::sin(x); }},
      {"cos", [](double x) { return std::cos(x); }},
      {"tanh", [](double x) { return std::tanh(x); }},
      {"erf", [](double x) { return std::erf(x); }},
      {"sigmoid", sigma},
      {"log_sigmoid", [](double x) { return x < 0 ? x - std::log1p(std::exp(x)) : -std::log1p(std::exp(-x)); }},
      {"softplus", [](double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }},
      {"relu", [](double x) { return x > 0    ? x
                                     : x == x ? 0
                                              : x; }},
      {"relu_squared", [](double x) { return x > 0    ? x * x
                                             : x == x ? 0
                                                      : x; }},
      {"silu", [&](double x) { return x * sigma(x); }},
      {"gelu", [](double x) { return x * 0.5 * std::erfc(-x / std::sqrt(2.0)); }},
      {"gelu_tanh", [](double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x))); }},
  };
  for (DType dtype : {DType::float32, DType::float64}) {
    std::vector<double> points = {0, -0.0, 1, -1, 0.5, 2, 3.25, -3.25, 1e-30, -1e-30, 20, -20, 87, -87};
    for (int i = 0; i < 200; ++i) points.push_back(-6 + 0.06 * i);
    const Tensor x = to(from_vector<double>(points, {static_cast<int64_t>(points.size())}), dtype);
    const auto in = values(x);
#define UNARY(name, ...)                                               \
  if (const auto f = library.find(#name); f != library.end()) {        \
    INFO(#name, " ", to_text(dtype));                                  \
    check_values(name(x), [&](size_t i) { return f->second(in[i]); }); \
  }
#include "weft/core/elementwise.def"
#undef UNARY
    check_values(pow_scalar(x, 2.5), [&](size_t i) { return std::pow(in[i], 2.5); });
    check_values(pow(x, scalar(3, {.dtype = dtype})), [&](size_t i) { return std::pow(in[i], 3); });
    check_values(leaky_relu(x, 0.1), [&](size_t i) { return in[i] > 0 ? in[i] : (dtype == DType::float32 ? double{0.1F} : 0.1) * in[i]; });
    check_values(elu(x, 0.5), [&](size_t i) { return in[i] > 0 ? in[i] : 0.5 * std::expm1(in[i]); });
    check_values(softcap(x, 4), [&](size_t i) { return 4 * std::tanh(in[i] / 4); });
    check_values(clamp(x, -1, 2), [&](size_t i) { return std::clamp(in[i], -1.0, 2.0); });
  }
}

TEST_CASE("elementwise: NaN, infinities and zeros") {
  const Tensor x = from_vector<double>({not_a_number, inf, -inf, 0, -0.0}, {5});
  const auto check = [](const Tensor& y, const std::vector<double>& expected) { check_values(y, [&](size_t i) { return expected[i]; }); };
  check(relu(x), {not_a_number, inf, 0, 0, 0});
  check(exp(x), {not_a_number, inf, 0, 1, 1});
  check(log(x), {not_a_number, inf, not_a_number, -inf, -inf});
  check(sigmoid(x), {not_a_number, 1, 0, 0.5, 0.5});
  check(softplus(x), {not_a_number, inf, 0, std::log(2), std::log(2)});
  check(log_sigmoid(x), {not_a_number, 0, -inf, -std::log(2), -std::log(2)});
  check(tanh(x), {not_a_number, 1, -1, 0, 0});
  check(abs(x), {not_a_number, inf, inf, 0, 0});
  check(maximum(x, zeros({5}, f64)), {not_a_number, inf, 0, 0, 0});
  check(minimum(zeros({5}, f64), x), {not_a_number, 0, -inf, 0, 0});
  check(clamp_min(x, -1), {not_a_number, inf, -1, 0, 0});
  check(clamp(x, -1, 2), {not_a_number, 2, -1, 0, 0});
  check(sign(x), {not_a_number, 1, -1, 0, 0});
  check(floor(x), {not_a_number, inf, -inf, 0, 0});
  check(round(x), {not_a_number, inf, -inf, 0, 0});
  const Tensor halves = from_vector<double>({-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 1e300}, {7});
  check(round(halves), {-2, -2, -0.0, 0, 2, 2, 1e300});
  check(floor(halves), {-3, -2, -1, 0, 1, 2, 1e300});
  CHECK(equal(x, x).to_vector<bool>() == std::vector<bool>{false, true, true, true, true});
  CHECK(not_equal(x, x).to_vector<bool>() == std::vector<bool>{true, false, false, false, false});
}

TEST_CASE("elementwise: gradients at kinks and ties") {
  const auto slope = [](const std::function<Tensor(const Tensor&)>& f, double at) {
    const Tensor x = parameter(scalar(at, f64));
    backward(f(x));
    return grad(x).item();
  };
  CHECK(slope([](const Tensor& x) { return relu(x); }, 0) == 0);
  CHECK(slope([](const Tensor& x) { return abs(x); }, 0) == 0);
  CHECK(slope([](const Tensor& x) { return clamp_min(x, 0); }, 0) == 1);
  for (double at : {0.0, 0.5, 1.0}) CHECK(slope([](const Tensor& x) { return clamp(x, 0, 1); }, at) == 1);
  for (double at : {-0.1, 1.1}) CHECK(slope([](const Tensor& x) { return clamp(x, 0, 1); }, at) == 0);
  CHECK(slope([](const Tensor& x) { return sign(x); }, 0) == 0);
  CHECK(slope([](const Tensor& x) { return floor(x); }, 1) == 0);
  CHECK(slope([](const Tensor& x) { return pow_scalar(x, 0); }, 0) == 0);
  CHECK(slope([](const Tensor& x) { return log_sigmoid(x); }, 40) == doctest::Approx(std::exp(-40)).epsilon(1e-12));
  for (DType dtype : {DType::float32, DType::float64}) {  // saturated, nothing overflows
    const double far = dtype == DType::float32 ? 3e38 : 1e308;
    const Tensor x = parameter(to(from_vector<double>({far, -far}, {2}), dtype));
    for (const auto& f : {gelu_tanh(x), gelu(x), silu(x), softplus(x), relu(x)}) {
      zero_grad(x);
      backward(f, ones({2}, {.dtype = dtype}));
      CHECK(values(grad(x)) == std::vector<double>{1, 0});
    }
  }
  const Tensor a = parameter(scalar(2, f64)), b = parameter(scalar(2, f64)), zero = parameter(scalar(0, f64));
  backward(maximum(a, b));
  backward(minimum(a, b));
  CHECK(grad(a).item() == 1);  // one half from each
  CHECK(grad(b).item() == 1);
  backward(pow(zero, a));
  CHECK(grad(a).item() == 1);  // 0^a stays 0
  CHECK(grad(zero).item() == 0);
}

TEST_CASE("elementwise: binary rows broadcast, and so do their gradients") {
  for (const auto& [shape_a, shape_b] : broadcasts) {
    const Shape shape = broadcast_shapes("test", shape_a, shape_b);
    for (DType dtype : {DType::float32, DType::float64}) {
#define BINARY(name, ...)                                                                                                                 \
  {                                                                                                                                       \
    INFO(#name, " ", to_string(shape_a), " ", to_string(shape_b), " ", to_text(dtype));                                                   \
    using Formula = formulas::name##_formula;                                                                                             \
    for (const bool swapped : {false, true}) {                                                                                            \
      const Tensor a = sample(swapped ? shape_b : shape_a, Formula::lowest, Formula::highest, dtype);                                     \
      const Tensor b = sample(swapped ? shape_a : shape_b, Formula::lowest, Formula::highest, dtype);                                     \
      const auto in_a = values(a), in_b = values(b);                                                                                      \
      const Tensor y = name(a, b);                                                                                                        \
      REQUIRE(y.shape() == shape);                                                                                                        \
      check_values(y,                                                                                                                     \
                   [&](size_t i) { return Formula::value(in_a[source_of(i, shape, a.shape())], in_b[source_of(i, shape, b.shape())]); }); \
      if (dtype == DType::float64) {                                                                                                      \
        gradcheck([](const std::vector<Tensor>& v) { return name(v[0], v[1]); }, {on_grid(a, 0), on_grid(b, 0.05)},                       \
                  {.every_element = shape.numel() <= 40});                                                                                \
      }                                                                                                                                   \
    }                                                                                                                                     \
  }
#include "weft/core/elementwise.def"
#undef BINARY
    }
  }
}

TEST_CASE("elementwise: a binary op with one constant side keeps and computes only what the other needs") {
  const Tensor x = parameter(sample({64}, 1, 2)), c = sample({64}, 1, 2);
  for (const auto& f : std::vector<std::function<Tensor(const Tensor&, const Tensor&)>>{
           [](const Tensor&a, const Tensor&b) { return mul(a, b); }, [](const Tensor&a, const Tensor&b) { return div(b, a); }}) {
    gradcheck([&](const std::vector<Tensor>& v) { return f(v[0], c); }, {detach(x)});
    gradcheck([&](const std::vector<Tensor>& v) { return f(c, v[0]); }, {detach(x)});
  }
  const int64_t before = bytes_in_use();
  Tensor y;
  {
    const Tensor big = sample({4096}, 0, 1);
    y = sum(mul(parameter(big), 3 * ones({4096}, f64)));  // the slope of a is b: neither a nor the product stays
  }
  CHECK(bytes_in_use() - before < 2 * 4096 * 8);
}

TEST_CASE("elementwise: operators") {
  const Tensor a = from_vector<double>({1, 2, 4}, {3}), b = from_vector<double>({2, 5, 8}, {3});
  CHECK(values(a + b) == std::vector<double>{3, 7, 12});
  CHECK(values(a - b) == std::vector<double>{-1, -3, -4});
  CHECK(values(a * b) == std::vector<double>{2, 10, 32});
  CHECK(values(b / a) == std::vector<double>{2, 2.5, 2});
  CHECK(values(-a) == std::vector<double>{-1, -2, -4});
  CHECK(values(a + 1) == std::vector<double>{2, 3, 5});
  CHECK(values(1 - a) == std::vector<double>{0, -1, -3});
  CHECK(values(a - 1) == std::vector<double>{0, 1, 3});
  CHECK(values(2 * a) == std::vector<double>{2, 4, 8});
  CHECK(values(a / 2) == std::vector<double>{0.5, 1, 2});
  CHECK(values(4 / a) == std::vector<double>{4, 2, 1});
}

TEST_CASE("elementwise: errors name the op, what came and the way out") {
  const Tensor x = zeros({2, 3}), d = zeros({2, 3}, f64), i = zeros({3}, {.dtype = DType::int64}),
               m = zeros({2, 3}, {.dtype = DType::boolean});
  CHECK_THROWS_WITH_AS(tanh(Tensor()), "tanh: the tensor is undefined", Error);
  CHECK_THROWS_WITH_AS(tanh(i), "tanh: expected float32 or float64, got int64 [3]; convert with to(x, DType::float32)", Error);
  CHECK_THROWS_WITH_AS(add(x, d), "add: a is float32 [2, 3], but b is float64 [2, 3]; convert one with to(x, DType::float32)", Error);
  CHECK_THROWS_WITH_AS(add(x, Tensor()), "add: a is float32 [2, 3], but b is an undefined tensor; both must be given", Error);
  CHECK_THROWS_WITH_AS(mul(i, i), "mul: expected float32 or float64, got int64 [3]; convert with to(x, DType::float32)", Error);
  CHECK_THROWS_WITH_AS(mul(x, zeros({2})), "mul: shapes [2, 3] and [2] do not broadcast: sizes 3 and 2 differ and neither is 1", Error);
  CHECK_THROWS_WITH_AS(less(x, i), "less: a is float32 [2, 3], but b is int64 [3]; convert one with to(x, DType::float32)", Error);
  const Tensor half = zeros({3}, {.dtype = DType::float16, .device = Device::cpu()});
  CHECK_THROWS_WITH_AS(less(half, half), "less: float16 is a storage type on the CPU; convert with to(x, DType::float32)", Error);
  CHECK_THROWS_WITH_AS(logical_and(m, x), "logical_and: expected a bool mask, got float32 [2, 3]", Error);
  CHECK_THROWS_WITH_AS(logical_not(x), "logical_not: expected a bool mask, got float32 [2, 3]", Error);
  CHECK_THROWS_WITH_AS(where(x, x, x), "where: expected a bool mask, got float32 [2, 3]", Error);
  CHECK_THROWS_WITH_AS(where(m, x, d), "where: a is float32 [2, 3], but b is float64 [2, 3]; convert one with to(x, DType::float32)",
                       Error);
  CHECK_THROWS_WITH_AS(masked_fill(zeros({3}), m, 0), "masked_fill: the mask [2, 3] does not broadcast to x [3]", Error);
  CHECK_THROWS_WITH_AS(masked_fill(Tensor(), m, 0),
                       "masked_fill: x is an undefined tensor, but the mask is bool [2, 3]; both must be given", Error);
  CHECK_THROWS_WITH_AS(clamp(x, 1, -1), "clamp: expected low <= high, got [1, -1]", Error);
  CHECK_THROWS_WITH_AS(to(Tensor(), DType::int64), "to: the tensor is undefined", Error);
  CHECK_THROWS_WITH_AS(dropout(x, 1.5, RandomKey{}), "dropout: the probability must be in [0, 1], got 1.5", Error);
  CHECK_THROWS_WITH_AS(gated(x, Gate::gelu), "gated: the last axis is split into two halves, so its size must be even; got float32 [2, 3]",
                       Error);
  if (cuda_device_count() == 0) CHECK_THROWS_WITH_AS(to(x, Device::cuda()), doctest::Contains("cuda:0"), Error);
}
