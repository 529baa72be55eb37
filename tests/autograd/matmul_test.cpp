// Matrix products against plain loops: every transpose flag, batches that broadcast, thin, empty and large shapes; their gradients.
#include "loops_testing.h"
#include "weft/core/cpu/blas.h"
#include "weft/core/kernels.h"

namespace weft {
namespace {

using namespace testing;

// a [.., n, k] and b [.., k, m], stored transposed where the options say so.
Shape stored(Shape batch, int64_t rows, int64_t columns, bool transposed) {
  batch.push_back(transposed ? columns : rows);
  batch.push_back(transposed ? rows : columns);
  return batch;
}

// Which matrix of x meets matrix `number` of y: leading axes are aligned at the end, size 1 stretches.
int64_t matrix_of(const Shape& x, const Shape& y, int64_t number) {
  int64_t matrix = 0, stride = 1;
  for (int i = 2; i < y.rank(); ++i) {
    const int64_t at = number % y.back(i);
    number /= y.back(i);
    if (i >= x.rank()) continue;
    matrix += x.back(i) == 1 ? 0 : at * stride;
    stride *= x.back(i);
  }
  return matrix;
}

void check_product(const Tensor& y, const Tensor& a, const Tensor& b, const MatmulOptions& options) {
  const auto left = values(a), right = values(b), got = values(y);
  const int64_t n = y.size(-2), m = y.size(-1), inner = a.size(options.transpose_a ? -2 : -1);
  const double tolerance = (y.dtype() == DType::float64 ? 1e-15 : 4e-7) * static_cast<double>(inner + 1);
  int64_t wrong = 0;
  for (int64_t e = 0; e < y.numel(); ++e) {
    const int64_t number = e / (n * m), i = e / m % n, j = e % m;
    const int64_t a0 = matrix_of(a.shape(), y.shape(), number) * n * inner, b0 = matrix_of(b.shape(), y.shape(), number) * inner * m;
    double total = 0;
    for (int64_t k = 0; k < inner; ++k) {
      total += left[static_cast<size_t>(a0 + (options.transpose_a ? k * n + i : i * inner + k))] *
               right[static_cast<size_t>(b0 + (options.transpose_b ? j * inner + k : k * m + j))];
    }
    total *= options.alpha;
    wrong += std::fabs(got[static_cast<size_t>(e)] - total) <= tolerance * (1 + std::fabs(total)) ? 0 : 1;
  }
  CHECK(wrong == 0);
}

constexpr MatmulOptions all_flags[] = {{}, {.transpose_a = true}, {.transpose_b = true}, {.transpose_a = true, .transpose_b = true}};

// Batch shapes of a, of b, and of the product.
struct Batches {
  Shape a, b, y;
};
const Batches batches[] = {{{}, {}, {}},
                           {{3}, {3}, {3}},
                           {{3}, {}, {3}},
                           {{}, {3}, {3}},
                           {{3}, {1}, {3}},
                           {{1}, {3}, {3}},
                           {{2, 3}, {2, 3}, {2, 3}},
                           {{2, 3}, {3}, {2, 3}},
                           {{3}, {2, 3}, {2, 3}},
                           {{2, 1}, {1, 3}, {2, 3}},
                           {{2, 1}, {3}, {2, 3}},
                           {{2, 3}, {2, 1}, {2, 3}},
                           {{2, 1, 2}, {3, 1}, {2, 3, 2}},
                           {{0}, {1}, {0}},
                           {{2, 0}, {2, 1}, {2, 0}}};

TEST_CASE("matmul agrees with plain loops for every flag, batch and size") {
  manual_seed(1);
  struct Size {
    int64_t n, k, m;
  };
  for (DType dtype : {DType::float32, DType::float64}) {
    for (const Size& s : {Size{1, 1, 1}, Size{1, 7, 5}, Size{5, 7, 1}, Size{1, 33, 1}, Size{7, 1, 5}, Size{7, 33, 17}, Size{4, 64, 32},
                          Size{0, 3, 2}, Size{2, 3, 0}, Size{3, 0, 2}, Size{1, 0, 1}, Size{0, 0, 0}}) {
      for (const Batches& batch : batches) {
        for (MatmulOptions options : all_flags) {
          options.alpha = 0.5;
          const Tensor a = random(stored(batch.a, s.n, s.k, options.transpose_a), dtype);
          const Tensor b = random(stored(batch.b, s.k, s.m, options.transpose_b), dtype);
          CAPTURE(to_string(a.shape()));
          CAPTURE(to_string(b.shape()));
          CAPTURE(options.transpose_a);
          CAPTURE(options.transpose_b);
          const Tensor y = matmul(a, b, options);
          REQUIRE(y.shape() == stored(batch.y, s.n, s.m, false));
          check_product(y, a, b, options);
        }
      }
    }
  }
}

TEST_CASE("matmul of sizes around blocks, vectors and thresholds") {
  manual_seed(2);
  struct Size {
    int64_t batch, n, k, m;
  };
  for (DType dtype : {DType::float32, DType::float64}) {
    for (const Size& s : {Size{1, 129, 257, 65}, Size{1, 6, 300, 64}, Size{1, 63, 5, 193}, Size{40, 64, 32, 64}, Size{9, 33, 64, 31},
                          Size{1, 2, 700, 900}, Size{1, 900, 3, 130}, Size{1, 2, 3000, 200}, Size{1, 16, 513, 127}, Size{1, 11, 130, 900},
                          Size{3, 200, 130, 150}, Size{300, 1, 40, 64}, Size{300, 64, 40, 1}, Size{500, 1, 33, 1}}) {
      for (const MatmulOptions& options : all_flags) {
        const Tensor a = random(stored({s.batch}, s.n, s.k, options.transpose_a), dtype);
        const Tensor b = random(stored({s.batch}, s.k, s.m, options.transpose_b), dtype);
        CAPTURE(to_string(a.shape()));
        CAPTURE(to_string(b.shape()));
        check_product(matmul(a, b, options), a, b, options);
      }
    }
  }
}

TEST_CASE("the matmul kernel adds to y when asked, and otherwise never reads it") {
  manual_seed(3);
  for (const Shape& shape : {Shape({5, 7}), Shape({1, 7}), Shape({7, 1}), Shape({40, 33}), Shape({300, 200})}) {
    const int64_t n = shape[0], m = shape[1];
    for (int64_t inner : {9, 0}) {
      const Tensor a = random({n, inner}), b = random({inner, m});
      Tensor y = full(shape, std::numeric_limits<double>::quiet_NaN(), {.dtype = DType::float64});
      WEFT_LAUNCH(y, matmul(y, a, b, false, false, 2, false));
      check_product(y, a, b, {.alpha = 2});
      const Tensor start = random(shape);
      Tensor sum = clone(start);
      WEFT_LAUNCH(sum, matmul(sum, a, b, false, false, 2, true));
      const Array product(y), from(start);
      check_each(
          sum, shape, [&](const Index& i) { return product[i] + from[i]; }, 1e-14);
    }
  }
}

TEST_CASE("matmul keeps NaN and infinity where they belong") {
  const double inf = std::numeric_limits<double>::infinity();
  const Tensor a = from_vector<double>({0, 1, 1, 0}, {2, 2}), b = from_vector<double>({inf, 1, 2, 3}, {2, 2});
  const auto y = values(matmul(a, b));
  CHECK(std::isnan(y[0]));  // 0 * infinity
  CHECK(y[1] == 3);
  CHECK(y[2] == inf);
  CHECK(y[3] == 1);
}

TEST_CASE("gradients of matmul for every flag and batch") {
  manual_seed(4);
  for (const Batches& batch : batches) {
    for (MatmulOptions options : all_flags) {
      options.alpha = -1.5;
      CAPTURE(to_string(batch.a));
      CAPTURE(to_string(batch.b));
      const Tensor a = random(stored(batch.a, 3, 5, options.transpose_a)), b = random(stored(batch.b, 5, 2, options.transpose_b));
      gradcheck([&](const std::vector<Tensor>& in) { return matmul(in[0], in[1], options); }, {a, b});
    }
  }
  for (const MatmulOptions& options : all_flags) {  // odd sizes, and K = 0: the gradients are empty
    for (int64_t inner : {1, 7, 33, 0}) {
      const Tensor a = random(stored({}, 7, inner, options.transpose_a)), b = random(stored({}, inner, 1, options.transpose_b));
      gradcheck([&](const std::vector<Tensor>& in) { return matmul(in[0], in[1], options); }, {a, b});
    }
  }
}

TEST_CASE("matmul differentiates only what needs it, and a product with itself twice") {
  manual_seed(5);
  const Tensor x = random({3, 3});
  gradcheck([](const std::vector<Tensor>& in) { return matmul(in[0], in[0], {.transpose_b = true}); }, {x});
  Tensor a = parameter(random({2, 3}));
  const Tensor b = random({3, 4}), dy = random({2, 4});
  backward(matmul(a, b), dy);
  check_product(grad(a), dy, b, {.transpose_b = true});
}

TEST_CASE("linear agrees with plain loops, for inputs of any rank") {
  manual_seed(6);
  for (DType dtype : {DType::float32, DType::float64}) {
    for (const Shape& shape : {Shape({5}), Shape({1, 5}), Shape({7, 5}), Shape({2, 3, 5}), Shape({2, 2, 2, 5}), Shape({0, 5}),
                               Shape({33, 5}), Shape({3, 0, 5})}) {
      for (int64_t out : {1, 4, 33, 0}) {
        const Tensor x = random(shape, dtype), weight = random({out, 5}, dtype), bias = random({out}, dtype);
        const Array input(x), matrix(weight), add(bias);
        Shape expected = shape;
        expected[shape.rank() - 1] = out;
        for (bool with_bias : {true, false}) {
          check_each(
              linear(x, weight, with_bias ? bias : Tensor()), expected,
              [&](const Index& index) {
                double total = with_bias ? add[{index.back()}] : 0;
                Index from = index;
                for (from.back() = 0; from.back() < 5; ++from.back()) total += input[from] * matrix[{index.back(), from.back()}];
                return total;
              },
              dtype == DType::float64 ? 1e-14 : 3e-6);
        }
      }
    }
  }
  const Tensor nothing = linear(zeros({3, 0}), zeros({2, 0}), from_vector<float>({1, 2}, {2}));
  CHECK(nothing.to_vector<float>() == std::vector<float>{1, 2, 1, 2, 1, 2});
}

TEST_CASE("gradients of linear") {
  manual_seed(7);
  for (const Shape& shape : {Shape({5}), Shape({1, 5}), Shape({7, 5}), Shape({2, 3, 5}), Shape({0, 5})}) {
    for (int64_t out : {1, 4, 33}) {
      const Tensor x = random(shape), weight = random({out, 5}), bias = random({out});
      gradcheck([](const std::vector<Tensor>& in) { return linear(in[0], in[1], in[2]); }, {x, weight, bias});
      gradcheck([](const std::vector<Tensor>& in) { return linear(in[0], in[1]); }, {x, weight});
      gradcheck([&](const std::vector<Tensor>& in) { return linear(x, weight, in[0]); }, {bias});
      gradcheck([&](const std::vector<Tensor>& in) { return linear(in[0], weight, bias); }, {x});
    }
  }
}

TEST_CASE("linear with GELU is gelu_tanh of linear, and has its gradients") {
  manual_seed(7);
  for (const Shape& shape : {Shape({5}), Shape({7, 5}), Shape({2, 3, 5}), Shape({0, 5})}) {
    for (int64_t out : {1, 8}) {
      const Tensor x = random(shape), weight = random({out, 5}), bias = random({out});
      const auto fused = [](const std::vector<Tensor>& in) { return linear_gelu_tanh(in[0], in[1], in[2]); };
      const std::vector<double> expected = values(gelu_tanh(linear(x, weight, bias))), alone = values(fused({x, weight, bias})),
                                recorded = values(fused({parameter(clone(x)), weight, bias}));
      CHECK(recorded == alone);
      for (size_t i = 0; i < expected.size(); ++i) CHECK(alone[i] == doctest::Approx(expected[i]).epsilon(1e-12));
      gradcheck(fused, {x, weight, bias});
      gradcheck([&](const std::vector<Tensor>& in) { return linear_gelu_tanh(x, weight, in[0]); }, {bias});
    }
  }
  CHECK(has(error_of([] { linear_gelu_tanh(zeros({2, 3}), zeros({4, 3}), {}); }), "linear_gelu_tanh: bias is undefined"));
}

TEST_CASE("linear_blocks: the pieces of linear, their gradients, and pieces that nobody uses") {
  manual_seed(9);
  for (const Shape& shape : {Shape({5}), Shape({2, 3, 5}), Shape({0, 5})}) {
    const Tensor x = random(shape), weight = random({9, 5}), bias = random({9});
    for (bool with_bias : {true, false}) {
      const Tensor b = with_bias ? bias : Tensor();
      const auto pieces = linear_blocks(x, weight, b, {4, 0, 3, 2}), expected = split(linear(x, weight, b), {4, 0, 3, 2}, -1);
      for (size_t i = 0; i < 4; ++i) {
        CHECK(pieces[i].shape() == expected[i].shape());
        CHECK(values(pieces[i]) == values(expected[i]));
      }
    }
    const auto three = [](const std::vector<Tensor>& in) { return linear_blocks(in[0], in[1], in[2], {4, 3, 2}); };
    gradcheck(three, {x, weight, bias});
    gradcheck([&](const std::vector<Tensor>& in) { return three(in)[1]; }, {x, weight, bias});
    gradcheck([&](const std::vector<Tensor>& in) { return linear_blocks(in[0], weight, {}, {4, 5}); }, {x});
    gradcheck([&](const std::vector<Tensor>& in) { return linear_blocks(x, in[0], {}, {4, 5})[1]; }, {weight});
  }
}

TEST_CASE("products do not depend on the number of threads") {
  manual_seed(8);
  const Tensor x = random({3, 300, 100}, DType::float32), w = random({170, 100}, DType::float32), bias = random({170}, DType::float32);
  const Tensor dy = random({3, 300, 170}, DType::float32);
  const auto run = [&] {
    Tensor weight = parameter(clone(w)), b = parameter(clone(bias)), in = parameter(clone(x));
    const Tensor y = linear(in, weight, b);
    backward(y, dy);
    std::vector<std::vector<double>> all{values(y), values(grad(in)), values(grad(weight)), values(grad(b)),
                                         values(matmul(x, dy, {.transpose_a = true}))};
    return all;
  };
  std::vector<std::vector<double>> one, three;
  {
    ThreadCount scope(1);
    one = run();
  }
  {
    ThreadCount scope(3);
    three = run();
  }
  for (size_t t = 0; t < one.size(); ++t) {
    double largest = 0, difference = 0;
    for (size_t i = 0; i < one[t].size(); ++i) {
      largest = std::max(largest, std::fabs(one[t][i]));
      difference = std::max(difference, std::fabs(one[t][i] - three[t][i]));
    }
    CHECK(difference <= 2e-6 * largest);
  }
}

TEST_CASE("the BLAS in use introduces itself") {
  const std::string text = cpu::blas_description();
  CAPTURE(text);
  CHECK(text.starts_with("OpenBLAS "));
  CHECK(text.find(" kernels") != std::string::npos);
  CHECK(text.find(std::to_string(num_threads()) + (num_threads() == 1 ? " thread" : " threads")) != std::string::npos);
}

TEST_CASE("errors of matmul and linear") {
  const Tensor a = zeros({8, 64, 32}), b = zeros({8, 16, 64});
  CHECK_THROWS_WITH_AS(matmul(a, b), "matmul: inner dimensions differ: a is [8, 64, 32] (32), b is [8, 16, 64] (16)", Error);
  CHECK_THROWS_WITH_AS(matmul(a, b, {.transpose_a = true}),
                       "matmul: inner dimensions differ: a is [8, 64, 32] transposed (64), b is [8, 16, 64] (16)", Error);
  CHECK_THROWS_WITH_AS(matmul(zeros({3}), zeros({3, 2})),
                       "matmul: expected at least 2 dimensions, got float32 [3] and float32 [3, 2]; use unsqueeze for vectors", Error);
  CHECK_THROWS_WITH_AS(matmul(zeros({2, 3}), zeros({3, 2}, {.dtype = DType::float64})),
                       "matmul: a is float32 [2, 3], but b is float64 [3, 2]; convert one with to(x, DType::float32)", Error);
  CHECK_THROWS_WITH_AS(matmul(zeros({2, 2, 3}), zeros({5, 3, 2})),
                       "matmul: the axes in front of the matrices do not broadcast: a is [2, 2, 3], b is [5, 3, 2]", Error);
  CHECK_THROWS_WITH_AS(matmul(arange(4).viewed_as({2, 2}), arange(4).viewed_as({2, 2})),
                       "matmul: expected float32 or float64, got int64 [2, 2]; convert with to(x, DType::float32)", Error);
  CHECK_THROWS_WITH_AS(matmul(Tensor(), b), "matmul: the tensor is undefined", Error);
  CHECK_THROWS_WITH_AS(linear(zeros({2, 3}), zeros({4, 5})),
                       "linear: x is float32 [2, 3], so weight should be [out, 3], got float32 [4, 5]", Error);
  CHECK_THROWS_WITH_AS(linear(zeros({2, 3}), zeros({4, 3}), zeros({5})),
                       "linear: weight is float32 [4, 3], so bias should be [4], got float32 [5]", Error);
  CHECK_THROWS_WITH_AS(linear(scalar(1), zeros({4, 3})), "linear: expected x with at least 1 dimension, got a scalar", Error);
  CHECK_THROWS_WITH_AS(linear(zeros({2, 3}, {.dtype = DType::float64}), zeros({4, 3})),
                       "linear: x is float64 [2, 3], but weight is float32 [4, 3]; convert one with to(x, DType::float64)", Error);
  const Tensor x = zeros({2, 3}), weight = zeros({4, 3});
  CHECK_THROWS_WITH_AS(linear_blocks(x, weight, {}, {2, 1}),
                       "linear_blocks: the blocks add up to 3, but weight is float32 [4, 3]: they must add up to its 4 rows", Error);
  CHECK_THROWS_WITH_AS(linear(Tensor(), weight), doctest::Contains("linear: x is an undefined tensor, but weight is "), Error);
  CHECK_THROWS_WITH_AS(linear_blocks(x, weight, {}, {5, -1}), "linear_blocks: sizes must not be negative, got -1", Error);
  CHECK_THROWS_WITH_AS(linear_blocks(x, zeros({4, 2}), {}, {4}),
                       "linear_blocks: x is float32 [2, 3], so weight should be [out, 3], got float32 [4, 2]", Error);
}

TEST_CASE("products that BLAS cannot count are errors") {
  constexpr int64_t huge = int64_t{1} << 31;  // of tensors without an element, so they cost nothing
  CHECK_THROWS_WITH_AS(matmul(zeros({huge, 0}), zeros({0, 0})),
                       "matmul: a product of [2147483648, 0] and [0, 0] is too large, BLAS takes sizes below 2^31; work on slices", Error);
  CHECK_THROWS_WITH_AS(matmul(zeros({2, huge / 2, 0}), zeros({0, 0})), doctest::Contains("matmul: a product of [2147483648, 0]"), Error);
  CHECK_THROWS_WITH_AS(matmul(zeros({0, huge}), zeros({huge, 0})), doctest::Contains("matmul: a product of [0, 2147483648]"), Error);
  CHECK_THROWS_WITH_AS(matmul(zeros({0, 0}), zeros({0, huge})), doctest::Contains("and [0, 2147483648] is too large"), Error);
  CHECK_THROWS_WITH_AS(linear(zeros({huge / 2, 2, 0}), zeros({0, 0})), doctest::Contains("linear: a product of [2147483648, 0]"), Error);
  CHECK(matmul(zeros({2, huge / 2, 0}), zeros({2, 0, 0})).shape() == Shape{2, huge / 2, 0});  // two products
}

}  // namespace
}  // namespace weft
