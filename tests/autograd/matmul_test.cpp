#include "testing.h"

using namespace weft;
using namespace weft::testing;

namespace {

// alpha * op(a) op(b) by three loops, leading axes broadcast.
Tensor loops(const Tensor& a, const Tensor& b, MatmulOptions options) {
  const Tensor left = options.transpose_a ? transpose(a) : a, right = options.transpose_b ? transpose(b) : b;
  const int64_t n = left.size(-2), k = left.size(-1), m = right.size(-1);
  const auto batch_of = [](const Tensor& x) { return Shape(std::span(x.shape().begin(), static_cast<size_t>(x.rank() - 2))); };
  const Shape batch = broadcast_shapes("test", batch_of(left), batch_of(right));
  const auto stretched = [&](const Tensor& x) {
    Shape shape = batch;
    shape.push_back(x.size(-2));
    shape.push_back(x.size(-1));
    return broadcast_to(x, shape);
  };
  const std::vector<double> l = stretched(left).to_vector<double>(), r = stretched(right).to_vector<double>();
  Shape shape = batch;
  shape.push_back(n);
  shape.push_back(m);
  std::vector<double> y(static_cast<size_t>(shape.numel()), 0.0);
  for (int64_t g = 0; g < batch.numel(); ++g) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < m; ++j) {
        double sum = 0;
        for (int64_t c = 0; c < k; ++c) sum += l[static_cast<size_t>((g * n + i) * k + c)] * r[static_cast<size_t>((g * k + c) * m + j)];
        y[static_cast<size_t>((g * n + i) * m + j)] = options.alpha * sum;
      }
    }
  }
  return from_vector<double>(y, shape);
}

Shape matrix(Shape batch, int64_t rows, int64_t columns, bool transposed) {
  batch.push_back(transposed ? columns : rows);
  batch.push_back(transposed ? rows : columns);
  return batch;
}

}  // namespace

TEST_CASE("matmul: values and gradients for every transpose flag and broadcast of batches") {
  const std::vector<std::pair<Shape, Shape>> batches = {{{}, {}}, {{3}, {3}}, {{3}, {}}, {{}, {2}}, {{2, 1}, {3}}, {{2, 3}, {2, 1}}};
  uint64_t seed = 1;
  for (const auto& [batch_a, batch_b] : batches) {
    for (int flags = 0; flags < 4; ++flags) {
      for (const auto& [n, k, m] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{{1, 7, 5}, {5, 7, 1}, {3, 5, 4}}) {
        const MatmulOptions options{.transpose_a = (flags & 1) != 0, .transpose_b = (flags & 2) != 0, .alpha = 0.7};
        const Tensor a = normal(matrix(batch_a, n, k, options.transpose_a), ++seed),
                     b = normal(matrix(batch_b, k, m, options.transpose_b), ++seed);
        CAPTURE(flags);
        CHECK(close(matmul(a, b, options), loops(a, b, options)));
        gradcheck([&](const std::vector<Tensor>& in) { return matmul(in[0], in[1], options); }, {a, b});
      }
    }
  }
}

TEST_CASE("matmul: large products and batches over the threads agree with the loops") {
  const Tensor a = normal({33, 65}, 1), b = normal({65, 129}, 2), many = normal({70, 17, 33}, 3), others = normal({70, 33, 9}, 4);
  CHECK(close(matmul(a, b), loops(a, b, {})));
  CHECK(close(matmul(many, others), loops(many, others, {})));
  const Tensor float_y = matmul(to(a, DType::float32), to(b, DType::float32));
  CHECK(float_y.dtype() == DType::float32);
  CHECK(close(to(float_y, DType::float64), loops(a, b, {}), 1e-4));
}

TEST_CASE("matmul: empty sizes") {
  CHECK(matmul(normal({0, 3}), normal({3, 4})).shape() == Shape{0, 4});
  CHECK(close(matmul(normal({2, 0}), normal({0, 4})), zeros({2, 4}, {.dtype = DType::float64})));
  CHECK(matmul(normal({0, 2, 3}), normal({3, 4})).shape() == Shape{0, 2, 4});
  gradcheck([](const std::vector<Tensor>& in) { return matmul(in[0], in[1]); }, {normal({2, 0}), normal({0, 4})});
}

TEST_CASE("linear: values and gradients with and without bias") {
  for (const Shape& shape : std::vector<Shape>{{7}, {5, 7}, {2, 3, 7}}) {
    const Tensor x = normal(shape, 1), weight = normal({4, 7}, 2), bias = normal({4}, 3);
    const Tensor rows = reshape(x, {-1, 7});
    Shape expected_shape = shape;
    expected_shape[shape.rank() - 1] = 4;
    const Tensor product = loops(rows, weight, {.transpose_b = true}).viewed_as(expected_shape);
    CHECK(close(linear(x, weight), product));
    CHECK(close(linear(x, weight, bias), add(product, bias)));
    gradcheck([](const std::vector<Tensor>& in) { return linear(in[0], in[1]); }, {x, weight});
    gradcheck([](const std::vector<Tensor>& in) { return linear(in[0], in[1], in[2]); }, {x, weight, bias});
  }
}

TEST_CASE("linear: only the gradients that are wanted are computed and kept in memory") {
  const Tensor x = normal({3, 4}, 1), weight = parameter(normal({5, 4}, 2));
  backward(sum(linear(x, weight)));
  CHECK(grad(weight).defined());
  const Tensor bias = parameter(normal({5}, 3));
  backward(sum(linear(x, detach(weight), bias)));
  CHECK(close(grad(bias), full({5}, 3, {.dtype = DType::float64})));
}

TEST_CASE("matmul and linear: errors name the op and the shapes") {
  const Tensor a = normal({8, 64, 32}), b = normal({8, 16, 64});
  CHECK(has(error_of([&] { matmul(a, b); }), "matmul: inner dimensions differ: a is [8, 64, 32] (32), b is [8, 16, 64] (16)"));
  CHECK(has(error_of([&] { matmul(normal({3}), b); }), "at least 2 dimensions"));
  CHECK(has(error_of([&] { matmul(normal({2, 3, 4}), normal({3, 4, 5})); }), "do not broadcast"));
  CHECK(has(error_of([&] { matmul(to(a, DType::float32), a, {.transpose_b = true}); }),
            "dtypes differ: float32 [8, 64, 32] and float64 [8, 64, 32]"));
  CHECK(has(error_of([&] { linear(a, normal({5, 7})); }), "linear: x is float64 [8, 64, 32], so weight should be [out, 32]"));
  CHECK(has(error_of([&] { linear(a, normal({5, 32}), normal({4})); }), "bias should be [5]"));
}
