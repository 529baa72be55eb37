// Bool tensors and what they are for, other dtypes, dropout, gated units.
#include "autograd/elementwise_testing.h"

using namespace weft;
using namespace weft::testing;

TEST_CASE("elementwise: comparisons") {
  for (const auto& [shape_a, shape_b] : broadcasts) {
    const Shape shape = broadcast_shapes("test", shape_a, shape_b);
    for (DType dtype : {DType::float32, DType::float64, DType::int64, DType::boolean}) {
      INFO(to_string(shape_a), " ", to_string(shape_b), " ", to_text(dtype));
      const Tensor a = to(sample(shape_a, 0, 2), DType::int64), b = to(sample(shape_b, 0, 2), DType::int64);
      const auto in_a = a.to_vector<int64_t>(), in_b = b.to_vector<int64_t>();
#define COMPARE(name, f)                                                                            \
  {                                                                                                 \
    const Tensor y = name(to(a, dtype), to(b, dtype));                                              \
    REQUIRE((y.shape() == shape && y.dtype() == DType::boolean));                                   \
    check_values(y, [&](size_t i) {                                                                 \
      const int64_t u = in_a[source_of(i, shape, shape_a)], v = in_b[source_of(i, shape, shape_b)]; \
      return formulas::name##_formula::value(u, v) ? 1 : 0;                                         \
    });                                                                                             \
  }
#include "weft/core/elementwise.def"
#undef COMPARE
    }
  }
}

TEST_CASE("elementwise: logic, where and masked_fill") {
  for (const auto& [shape_a, shape_b] : broadcasts) {
    INFO(to_string(shape_a), " ", to_string(shape_b));
    const Shape shape = broadcast_shapes("test", shape_a, shape_b);
    const Tensor m = less(sample(shape_a, 0, 1), scalar(0.5, f64)), n = less(sample(shape_b, 0, 1), scalar(0.5, f64));
    const auto in_m = m.to_vector<bool>(), in_n = n.to_vector<bool>();
    const auto left = [&](size_t i) { return in_m[source_of(i, shape, shape_a)]; };
    const auto right = [&](size_t i) { return in_n[source_of(i, shape, shape_b)]; };
    REQUIRE(logical_and(m, n).shape() == shape);
    check_values(logical_and(m, n), [&](size_t i) { return left(i) && right(i); });
    check_values(logical_or(m, n), [&](size_t i) { return left(i) || right(i); });
    check_values(logical_not(m), [&](size_t i) { return !in_m[i]; });

    for (DType dtype : {DType::float32, DType::float64, DType::float16, DType::int64, DType::boolean}) {
      const Tensor a = to(sample({}, 0, 5), dtype), b = to(sample(shape_b, 0, 5), dtype);
      const auto in_a = values(a), in_b = values(b);
      REQUIRE((where(m, a, b).shape() == shape && where(m, a, b).dtype() == dtype));
      check_values(where(m, a, b), [&](size_t i) { return left(i) ? in_a[0] : in_b[source_of(i, shape, shape_b)]; });
      if (shape != shape_a) continue;
      const Tensor x = to(sample(shape_a, 0, 5), dtype);
      const auto in_x = values(x);
      check_values(masked_fill(x, n, 1), [&](size_t i) { return right(i) ? 1 : in_x[i]; });
    }
    if (shape.numel() > 100) continue;
    gradcheck([&](const std::vector<Tensor>& v) { return where(m, v[0], v[1]); }, {sample(shape_a, -1, 1), sample(shape_b, -1, 1)});
    gradcheck([&](const std::vector<Tensor>& v) { return where(n, v[0], v[1]); }, {sample(shape_b, -1, 1), sample({}, -1, 1)});
    if (shape == shape_a) gradcheck([&](const std::vector<Tensor>& v) { return masked_fill(v[0], n, -3); }, {sample(shape_a, -1, 1)});
  }
  CHECK(masked_fill(zeros({2}), ones({2}, {.dtype = DType::boolean}), -inf).to_vector<float>()[0] == -inf);
}

TEST_CASE("elementwise: other dtypes") {
  gradcheck([](const std::vector<Tensor>& v) { return to(square(v[0]), DType::float64); }, {sample({5}, -1, 1)});
  const Tensor x = parameter(from_vector<double>({0.1, 2, -3}, {3}));
  backward(sum(mul(to(x, DType::float32), from_vector<float>({1, 2, 4}, {3}))));
  CHECK(grad(x).to_vector<double>() == std::vector<double>{1, 2, 4});
  CHECK(!requires_grad(to(x, DType::int64)));
  CHECK(to(x, DType::float64).node() == x.node());
  CHECK(to(x, x.device()).node() == x.node());
}

TEST_CASE("elementwise: dropout draws its mask again in the backward") {
  const RandomKey key{3, 5};
  for (const double p : {0.1, 0.5, 0.9}) {
    const Tensor x = parameter(sample({33, 77}, 1, 2));
    const Tensor y = dropout(x, p, key);
    backward(sum(y));
    const auto in = values(detach(x)), out = values(detach(y)), dx = values(grad(x));
    const auto kept = keep_mask(x.shape(), p, key).to_vector<bool>();
    for (size_t i = 0; i < in.size(); ++i) {
      CHECK(out[i] == (kept[i] ? in[i] * (1 / (1 - p)) : 0));
      CHECK(dx[i] == (kept[i] ? 1 / (1 - p) : 0));
    }
  }
  gradcheck([&](const std::vector<Tensor>& v) { return dropout(v[0], 0.4, key); }, {sample({7, 5}, -1, 1)});
  const Tensor x = sample({9}, 1, 2);
  CHECK(values(dropout(x, 1, key)) == std::vector<double>(9, 0.0));
  CHECK(dropout(x, 0, key).storage() == x.storage());
}

TEST_CASE("elementwise: gated units equal their composition") {
  for (const Shape& shape : {Shape{2}, Shape{14}, Shape{3, 66}, Shape{2, 3, 10}, Shape{0, 6}, Shape{4, 0}}) {
    Shape half = shape;
    half[half.rank() - 1] /= 2;
    for (const Gate gate : {Gate::gelu, Gate::silu, Gate::sigmoid, Gate::relu}) {
      INFO(to_string(shape), " gate ", static_cast<int>(gate));
      const Tensor h = sample(shape, -2, 2);
      const auto act = [&](double x) {
        switch (gate) {
          case Gate::gelu:
            return formulas::gelu_formula::value(x);
          case Gate::silu:
            return formulas::silu_formula::value(x);
          case Gate::sigmoid:
            return formulas::sigmoid_formula::value(x);
          default:
            return formulas::relu_formula::value(x);
        }
      };
      const Tensor y = gated(h, gate);
      REQUIRE(y.shape() == half);
      const auto in = values(h);
      const size_t size = static_cast<size_t>(half.back());
      check_values(y, [&](size_t i) {
        const size_t first = i / size * 2 * size + i % size;
        return act(in[first]) * in[first + size];
      });
      gradcheck([&](const std::vector<Tensor>& v) { return gated(v[0], gate); }, {h});
    }
  }
}
