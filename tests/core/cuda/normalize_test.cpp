// l2_normalize on CUDA along every axis, of rows and columns that fit into registers and of longer ones, and of lengths that overflow.
#include "core/cuda/on_cuda.h"

using namespace weft;
using weft::testing::check_on_cuda;
using weft::testing::normal;

namespace {

constexpr double units = 8;  // float64 is its own measure: sums in another order differ from it

Shape without(Shape shape, int axis) {
  shape.erase(axis);
  return shape;
}

std::vector<Tensor> forward(const Tensor& x, int axis, double eps) {
  Tensor y = empty_like(x), norm = empty(without(x.shape(), axis), {.dtype = acc_dtype(x.dtype()), .device = x.device()});
  WEFT_LAUNCH(x, l2_normalize(y, norm, x, axis, eps));
  return {y, norm};
}

// The backward reads results that are rounded to the dtype under test, so that both devices read the same ones.
void check_normalize(const Tensor& x, int axis, double eps = 1e-12, const std::vector<DType>& dtypes = weft::testing::compute_dtypes) {
  INFO("x ", describe(x), " along axis ", axis);
  check_on_cuda(
      {x}, [&](const std::vector<Tensor>& in) { return forward(in[0], axis, eps); }, dtypes, units);
  const std::vector<Tensor> y = forward(x, axis, eps);
  check_on_cuda(
      {normal(x.shape(), 2), y[0], y[1]},
      [&](const std::vector<Tensor>& in) {
        Tensor dx = empty_like(in[1]);
        WEFT_LAUNCH(dx, l2_normalize_backward(dx, in[0], in[1], to(in[2], acc_dtype(dx.dtype())), axis, eps));
        return std::vector<Tensor>{dx};
      },
      dtypes, units);
}

}  // namespace

TEST_CASE("cuda: l2_normalize of rows") {
  for (int64_t n : {1, 2, 7, 33, 64, 129, 257, 520, 1032}) check_normalize(normal({5, n}), 1);
  check_normalize(normal({2, 4099}), 1);
  check_normalize(normal({3, 100, 8}), 2);
  check_normalize(normal({77}), 0);
  check_normalize(normal({2, 8200}), 1, 1e-12, {DType::float32});
  check_normalize(normal({2, 16400}), 1, 1e-12, {DType::float16});
}

TEST_CASE("cuda: l2_normalize along other axes") {
  for (int axis : {0, 1, 2}) check_normalize(normal({5, 7, 9}), axis);
  check_normalize(normal({2, 40, 33}), 1);
  check_normalize(normal({300, 3}), 0);
  check_normalize(normal({1, 700, 2}), 1, 1e-12, {DType::float64, DType::bfloat16});
}

TEST_CASE("cuda: l2_normalize of vectors shorter than eps, of zeros, and of nothing") {
  for (const Shape& shape : {Shape{6, 5}, Shape{6, 64}, Shape{6, 700}}) {
    Tensor x = normal(shape);
    for (int64_t i = 0; i < shape[1]; ++i) {
      x.data<double>()[i] *= 1e-4;
      x.data<double>()[shape[1] + i] = 0;
    }
    for (int axis : {0, 1}) check_normalize(x, axis, 0.01);
  }
  for (const Shape& shape : {Shape{0, 3}, Shape{3, 0}}) {
    for (int axis : {0, 1})
      check_on_cuda({normal(shape)}, [&](const std::vector<Tensor>& in) { return std::vector{forward(in[0], axis, 0)[0]}; });
  }
}

TEST_CASE("cuda: l2_normalize of squares that overflow, infinities and NaN") {
  const std::vector<DType> wide = {DType::float32, DType::bfloat16};
  for (const Shape& shape : {Shape{7, 6}, Shape{5, 64}, Shape{3, 700}, Shape{3, 8200}}) {
    Tensor x = normal(shape);
    for (int64_t i = 0; i < shape[1]; ++i) x.data<double>()[shape[1] + i] *= 1e25;
    for (int axis : {0, 1})
      check_on_cuda(
          {x}, [&](const std::vector<Tensor>& in) { return forward(in[0], axis, 1e-12); }, wide);
    x.data<double>()[0] = std::numeric_limits<double>::infinity();
    x.data<double>()[2 * shape[1]] = std::numeric_limits<double>::quiet_NaN();
    for (int axis : {0, 1})
      check_on_cuda(
          {x}, [&](const std::vector<Tensor>& in) { return forward(in[0], axis, 1e-12); }, wide);
  }
}

TEST_CASE("cuda: l2_normalize of views that do not begin at 16 bytes") {
  check_on_cuda({normal({5 * 64})}, [](const std::vector<Tensor>& in) { return forward(in[0].rows(1, 257).viewed_as({4, 64}), 1, 1e-12); });
}
