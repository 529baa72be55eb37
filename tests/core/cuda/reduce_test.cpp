// Reductions on CUDA: rows and columns of every kind of length, sets of axes, NaN and infinities, and their backwards.
#include <limits>

#include "core/cuda/on_cuda.h"

using namespace weft;
using weft::testing::check_on_cuda;
using weft::testing::normal;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

AxisSet set_of(const std::vector<int>& axes) {
  AxisSet set;
  for (int axis : axes) set.add(axis);
  return set;
}

Shape without(const Shape& shape, AxisSet axes) {
  Shape kept;
  for (int i = 0; i < shape.rank(); ++i) {
    if (!axes.has(i)) kept.push_back(shape[i]);
  }
  return kept;
}

// With room in float64, where the CPU has no rougher result as a measure: sums in another order end on other last digits.
void check_all(const std::vector<Tensor>& inputs, const weft::testing::KernelCall& call) {
  check_on_cuda(inputs, call, {DType::float32, DType::float16, DType::bfloat16});
  check_on_cuda(inputs, call, {DType::float64}, 32);
}

// All four reductions of x.
void check_reductions(const Tensor& x, const std::vector<int>& axes) {
  INFO(x.shape(), " over ", axes.size(), " axes, the first ", axes.empty() ? -1 : axes[0]);
  check_all({x}, [&](const std::vector<Tensor>& in) {
    const AxisSet set = set_of(axes);
    std::vector<Tensor> ys;
    for (int i = 0; i < 4; ++i) ys.push_back(empty(without(x.shape(), set), in[0].options()));
    WEFT_LAUNCH(in[0], sum(ys[0], in[0], set));
    WEFT_LAUNCH(in[0], reduce_max(ys[1], in[0], set));
    WEFT_LAUNCH(in[0], reduce_min(ys[2], in[0], set));
    WEFT_LAUNCH(in[0], logsumexp(ys[3], in[0], set));
    return ys;
  });
}

Tensor special_rows() {
  const double inf = infinity, nan = std::numeric_limits<double>::quiet_NaN();
  return from_vector<double>(
      {-inf, -inf, -inf, -inf, inf, -inf, 1, 2, nan, 1, inf, -inf, 1, 2, 3, nan, -inf, 5, -inf, 6, inf, inf, inf, inf, 500, -500, 500, 499},
      {7, 4}, Device::cpu());
}

}  // namespace

TEST_CASE("cuda: reductions of rows") {
  for (int64_t length : {1, 2, 3, 7, 8, 16, 33, 64, 65, 129, 256, 1000, 1024, 2048, 4100}) check_reductions(normal({9, length}), {1});
  for (int64_t rows : {1, 2, 31, 33, 257}) check_reductions(normal({rows, 12}), {1});
}

TEST_CASE("cuda: reductions of columns") {
  for (int64_t width : {2, 3, 4, 7, 8, 31, 33, 64, 129, 256, 1000}) {
    for (int64_t length : {2, 5, 33}) check_reductions(normal({length, width}), {0});
  }
  check_reductions(normal({1000, 3}), {0});
  check_reductions(normal({300, 40}), {0});
  for (int64_t width : {1, 2, 5, 16, 72}) check_reductions(normal({7, 9, width}), {1});
  check_reductions(normal({100, 3, 5}), {1});
}

TEST_CASE("cuda: reductions that are cut into pieces") {
  check_reductions(normal({20011}), {0});
  check_reductions(normal({2, 20000}), {1});
  check_reductions(normal({6000, 8}), {0});
  check_reductions(normal({6000, 3}), {0});
  check_reductions(normal({2, 1100, 33}), {1});
}

TEST_CASE("cuda: reductions over sets of axes") {
  const Tensor x = normal({5, 3, 1, 7, 2});
  for (const std::vector<int>& axes :
       std::vector<std::vector<int>>{{}, {2}, {0}, {0, 1}, {3, 4}, {0, 3}, {1, 4}, {0, 2, 4}, {1, 2, 3}, {0, 1, 2, 3, 4}, {0, 1, 3}}) {
    check_reductions(x, axes);
  }
  check_reductions(normal({4, 33, 65}), {0, 2});
  check_reductions(normal({}), {});
}

TEST_CASE("cuda: reductions of NaN and infinities") {
  const Tensor rows = special_rows();
  check_reductions(rows, {1});
  check_reductions(transpose(rows, 0, 1), {0});
  check_reductions(repeat(rows, {60, 1}).viewed_as({60, 7, 4}), {0, 2});
  check_reductions(full({3, 300}, -infinity, {.dtype = DType::float64, .device = Device::cpu()}), {1});
}

TEST_CASE("cuda: reductions of a view that does not begin at 16 bytes") {
  check_all({normal({33, 12}), normal({9, 7})}, [](const std::vector<Tensor>& in) {
    Tensor rows = empty({8}, in[0].options()), columns = empty({7}, in[0].options());
    const Tensor x = in[0].viewed_as({132, 3}).rows(1, 129).viewed_as({8, 48}), z = in[1].rows(1, 9);
    WEFT_LAUNCH(rows, sum(rows, x, set_of({1})));
    WEFT_LAUNCH(rows, sum(columns, z, set_of({0})));
    return std::vector<Tensor>{rows, columns};
  });
}

TEST_CASE("cuda: long sums keep their precision") {
  const int64_t n = 300000;
  const Tensor x = to(full({n}, 0.1, {.dtype = DType::float32, .device = Device::cpu()}), Device::cuda());
  for (const Shape& shape : {Shape{n}, Shape{n / 3, 3}}) {
    Tensor y = empty(shape.rank() == 1 ? Shape{} : Shape{3}, x.options());
    cuda::sum(y, x.viewed_as(shape), set_of({0}));
    const std::vector<float> values = y.to_vector<float>();
    const double expected = static_cast<double>(0.1F) * static_cast<double>(n) / static_cast<double>(values.size());
    for (float value : values) CHECK(std::fabs(value - expected) < 1e-6 * expected);
  }
}

namespace {

// The gradients of max, min and logsumexp for a random cotangent.
void check_reduction_gradients(const Tensor& x, const std::vector<int>& axes) {
  INFO(x.shape(), " over ", axes.size(), " axes, the first ", axes.empty() ? -1 : axes[0]);
  const AxisSet set = set_of(axes);
  check_all({x, normal(without(x.shape(), set), 2)}, [&](const std::vector<Tensor>& in) {
    Tensor y = empty_like(in[1]);
    std::vector<Tensor> dxs;
    for (int i = 0; i < 3; ++i) dxs.push_back(empty_like(in[0]));
    WEFT_LAUNCH(y, reduce_max(y, in[0], set));
    WEFT_LAUNCH(y, reduce_extreme_backward(dxs[0], in[1], in[0], y, set));
    WEFT_LAUNCH(y, reduce_min(y, in[0], set));
    WEFT_LAUNCH(y, reduce_extreme_backward(dxs[1], in[1], in[0], y, set));
    WEFT_LAUNCH(y, logsumexp(y, in[0], set));
    WEFT_LAUNCH(y, logsumexp_backward(dxs[2], in[1], in[0], y, set));
    return dxs;
  });
}

// With few different values, so that extremes are shared.
Tensor with_ties(const Shape& shape) { return round(normal(shape) * 1.5); }

}  // namespace

TEST_CASE("cuda: gradients of reductions") {
  for (const std::vector<int>& axes : std::vector<std::vector<int>>{{}, {0}, {1}, {2}, {0, 1}, {0, 2}, {1, 2}, {0, 1, 2}}) {
    for (const Shape& shape : {Shape{5, 7, 3}, Shape{3, 4, 16}}) {
      check_reduction_gradients(normal(shape), axes);
      check_reduction_gradients(with_ties(shape), axes);
    }
  }
  check_reduction_gradients(with_ties({4, 2500}), {1});
  check_reduction_gradients(with_ties({700, 33}), {0});
}

TEST_CASE("cuda: gradients of reductions of NaN and infinities") {
  check_reduction_gradients(special_rows(), {1});
  check_reduction_gradients(transpose(special_rows(), 0, 1), {0});
}

TEST_CASE("cuda: reductions of empty tensors") {
  for (const std::vector<int>& axes : std::vector<std::vector<int>>{{0}, {1}, {2}, {0, 2}, {0, 1, 2}}) {
    check_reductions(empty({3, 0, 2}, {.dtype = DType::float64, .device = Device::cpu()}), axes);
    check_reduction_gradients(empty({3, 0, 2}, {.dtype = DType::float64, .device = Device::cpu()}), axes);
  }
}
