// sort and topk on CUDA: the CPU's values and places, to the element. Lengths around what one thread, one block and one pass take.
#include "core/cuda/on_cuda.h"

using namespace weft;
using weft::testing::check_on_cuda;
using weft::testing::normal;

namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();

// Few different values, so that most are tied; NaN, infinities and zeros of both signs among them.
Tensor tied(const Shape& shape) {
  const std::vector<double> values = {1, -1, 0.0, -0.0, 2, nan, inf, -inf, 1, -3, 0.5};
  std::vector<double> x;
  for (int64_t i = 0; i < shape.numel(); ++i) x.push_back(values[static_cast<size_t>((i * i + i / 5) % 11)]);
  return from_vector(x, shape, Device::cpu());
}

weft::testing::KernelCall sorting(int axis, int64_t kept, bool descending) {
  return [=](const std::vector<Tensor>& in) {
    Shape shape = in[0].shape();
    shape[axis] = kept;
    Tensor values = empty(shape, in[0].options()), indices = empty(shape, {.dtype = DType::int64, .device = in[0].device()});
    if (kept == in[0].shape()[axis]) {
      WEFT_LAUNCH(in[0], sort(values, indices, in[0], axis, descending));
    } else {
      WEFT_LAUNCH(in[0], topk(values, indices, in[0], axis, descending));
    }
    return std::vector<Tensor>{values, indices};
  };
}

void check_sort(const Tensor& x, int axis, int64_t kept, const std::vector<DType>& dtypes = weft::testing::compute_dtypes) {
  CAPTURE(x.shape());
  CAPTURE(axis);
  CAPTURE(kept);
  check_on_cuda({x}, sorting(axis, kept, false), dtypes, 0);
  check_on_cuda({x}, sorting(axis, kept, true), dtypes, 0);
}

}  // namespace

TEST_CASE("cuda: sort of lines that a block holds") {
  for (int64_t length : {1, 2, 7, 8, 9, 33, 255, 256, 257, 2047, 2048}) {
    check_sort(normal({3, length}), 1, length);
    check_sort(tied({2, length}), 1, length);
  }
}

TEST_CASE("cuda: sort of longer lines") {
  const std::vector<DType> dtypes = {DType::float64, DType::float32};
  for (int64_t length : {2049, 4096, 6000, 10001}) {
    check_sort(normal({2, length}), 1, length, dtypes);
    check_sort(tied({length}), 0, length, {DType::float16});
  }
}

TEST_CASE("cuda: more lines than a grid has blocks") {
  check_sort(normal({150, 40}), 1, 40, {DType::float32});
  check_sort(normal({17, 4500}), 1, 4500, {DType::float64});
}

TEST_CASE("cuda: sort along every axis") {
  for (int axis : {0, 1, 2, 3}) {
    const Shape shape{3, 5, 17, 2};
    check_sort(normal(shape), axis, shape[axis]);
    check_sort(tied(shape), axis, shape[axis]);
    check_sort(tied(shape), axis, 2);
  }
}

TEST_CASE("cuda: topk") {
  const std::vector<DType> dtypes = {DType::float32, DType::bfloat16};
  for (int64_t kept : {0, 1, 2, 5, 32}) check_sort(tied({3, 33}), 1, kept, dtypes);
  // Few of long lines: tiles are sorted again. Many: runs are merged and cut.
  for (int64_t kept : {1, 50, 1000, 1024, 1025, 2048, 3000, 5500}) {
    check_sort(normal({2, 6001}), 1, kept, {DType::float32});
    check_sort(tied({6001}), 0, kept, {DType::float64});
  }
  check_sort(normal({30000}), 0, 900, {DType::float32});
  check_sort(normal({30000}), 0, 1500, {DType::float32});
}

TEST_CASE("cuda: sort of integers") {
  constexpr int64_t lowest = std::numeric_limits<int64_t>::min(), highest = std::numeric_limits<int64_t>::max();
  std::vector<int64_t> values = {3, -1, highest, lowest, 0, 3, highest, lowest, -1};
  for (int64_t i = 0; i < 3000; ++i) values.push_back(i * 7919 % 100 - 50);
  for (int64_t kept : {9, 3009}) {
    const Tensor x = from_vector(values, {3009}, Device::cpu());
    for (bool descending : {false, true}) {
      const auto call = sorting(0, kept, descending);
      const auto expected = call({x}), got = weft::testing::moved(call({to(x, Device::cuda())}), Device::cpu());
      CHECK(got[0].to_vector<int64_t>() == expected[0].to_vector<int64_t>());
      CHECK(got[1].to_vector<int64_t>() == expected[1].to_vector<int64_t>());
    }
  }
}

TEST_CASE("cuda: sort of nothing") {
  check_sort(normal({3, 0}), 1, 0);
  check_sort(normal({0, 3}), 1, 3);
}
