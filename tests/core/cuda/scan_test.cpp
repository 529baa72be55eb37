// argmax and cumsum on CUDA: along rows and columns of every kind of length.
#include <limits>

#include "core/cuda/on_cuda.h"

using namespace weft;
using weft::testing::check_on_cuda;
using weft::testing::normal;

namespace {

void check_argmax(const Tensor& x, int axis) {
  INFO(x.shape(), " along ", axis);
  check_on_cuda({x}, [&](const std::vector<Tensor>& in) {
    Shape shape = x.shape();
    shape.erase(axis);
    Tensor y = empty(shape, {.dtype = DType::int64, .device = in[0].device()});
    WEFT_LAUNCH(y, argmax(y, in[0], axis));
    return std::vector<Tensor>{y};
  });
}

void check_cumsum(const Tensor& x, int axis) {
  INFO(x.shape(), " along ", axis);
  const auto call = [&](const std::vector<Tensor>& in) {
    Tensor forwards = empty_like(in[0]), backwards = empty_like(in[0]);
    WEFT_LAUNCH(in[0], cumsum(forwards, in[0], axis, false));
    WEFT_LAUNCH(in[0], cumsum(backwards, in[0], axis, true));
    return std::vector<Tensor>{forwards, backwards};
  };
  check_on_cuda({x}, call, {DType::float32, DType::float16, DType::bfloat16}, 1);
  check_on_cuda({x}, call, {DType::float64}, 64);  // where the CPU's sums of thousands of numbers, in another order, are no more exact
}

// With few different values, so that the largest are several.
Tensor with_ties(const Shape& shape) { return round(normal(shape) * 1.5); }

}  // namespace

TEST_CASE("cuda: argmax along rows and columns") {
  for (int64_t length : {1, 2, 7, 16, 33, 64, 129, 1000, 4100}) {
    check_argmax(normal({9, length}), 1);
    check_argmax(with_ties({9, length}), 1);
    check_argmax(with_ties({length, 5}), 0);
    check_argmax(with_ties({length, 8}), 0);
  }
  check_argmax(with_ties({3, 40, 33}), 1);
  check_argmax(normal({70, 3, 16}), 1);
}

TEST_CASE("cuda: argmax of lines that are cut into pieces") {
  check_argmax(with_ties({20011}), 0);
  check_argmax(normal({3, 20000}), 1);
  check_argmax(with_ties({6000, 8}), 0);
  check_argmax(normal({2, 2500, 3}), 1);
}

TEST_CASE("cuda: argmax of NaN and infinities") {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  const Tensor x = from_vector<double>({-inf, -inf, -inf, -inf, 1,   nan, inf, nan,  inf, 1, inf, -inf, 3,   3,   nan, 3,
                                        -inf, -1,   -inf, -inf, nan, nan, nan, -inf, 2,   2, 1,   2,    inf, inf, 0,   inf},
                                       {8, 4}, Device::cpu());
  check_argmax(x, 1);
  check_argmax(transpose(x, 0, 1), 0);
  check_argmax(repeat(x, {1, 300}), 1);
  check_argmax(full({2, 5000}, -inf, {.dtype = DType::float64, .device = Device::cpu()}), 1);
}

TEST_CASE("cuda: cumsum along rows and columns") {
  for (int64_t length : {1, 2, 7, 8, 33, 64, 129, 256, 1000, 1024, 4100}) check_cumsum(normal({9, length}), 1);
  for (int64_t length : {1, 7, 8, 9, 33}) {
    check_cumsum(normal({length, 5}), 0);
    check_cumsum(normal({3, length, 33}), 1);
  }
  check_cumsum(normal({70, 3, 16}), 1);
}

TEST_CASE("cuda: cumsum of lines that are cut into pieces") {
  check_cumsum(normal({20011}), 0);
  check_cumsum(normal({2, 20000}), 1);
  check_cumsum(normal({600, 8}), 0);
  check_cumsum(normal({2, 1001, 3}), 1);
}

TEST_CASE("cuda: cumsum of NaN and infinities") {
  const double inf = std::numeric_limits<double>::infinity();
  std::vector<double> values(300, 0.5);
  values[100] = inf;
  values[200] = -inf;
  check_cumsum(from_vector<double>(values, {300}, Device::cpu()), 0);
  check_cumsum(from_vector<double>(values, {300, 1}, Device::cpu()), 0);
  check_cumsum(from_vector<double>(values, {30, 10}, Device::cpu()), 0);
}

TEST_CASE("cuda: cumsum of a view that does not begin at 16 bytes, and of nothing") {
  check_on_cuda({normal({33, 3})}, [](const std::vector<Tensor>& in) {
    const Tensor x = in[0].rows(1, 33).viewed_as({2, 48});
    Tensor y = empty_like(x);
    WEFT_LAUNCH(y, cumsum(y, x, 1, true));
    return std::vector<Tensor>{y};
  });
  check_cumsum(empty({3, 0}, {.dtype = DType::float64, .device = Device::cpu()}), 1);
  check_argmax(empty({0, 3}, {.dtype = DType::float64, .device = Device::cpu()}), 1);
}
