// Fills, conversions and sums of gradients on CUDA: conversions give the CPU's bits for every pair of dtypes.
#include "core/cuda/on_cuda.h"

using namespace weft;
using weft::testing::check_on_cuda;
using weft::testing::distance;
using weft::testing::normal;

namespace {

const std::vector<DType> every_dtype = {DType::float32, DType::float64, DType::float16, DType::bfloat16, DType::int64, DType::boolean};
constexpr double infinity = std::numeric_limits<double>::infinity(), quiet_nan = std::numeric_limits<double>::quiet_NaN();

// What rounds, overflows, or has no counterpart in some dtype, then ordinary numbers.
Tensor awkward(int64_t n) {
  std::vector<double> x = {0,        -0.0,      1,         -1,     0.5,   -2.5,    1e300,      -1e300,
                           infinity, -infinity, quiet_nan, 65519,  65520, 0x1p-24, 0x1p-25,    3e-8,
                           0x1p63,   -0x1p63,   0x1p62,    1e19,   -1e19, 1e-310,  1 + 0x1p-8, 1 + 0x1p-11 + 0x1p-40,
                           2049,     0x1p53,    3.4e38,    3.5e38, 257.0, 255.5,   0x1p-126,   0x1p-140};
  Generator generator(3);
  const std::vector<double> rest =
      rand({std::max<int64_t>(n, 1)}, -1000, 1000, {.dtype = DType::float64, .device = Device::cpu()}, &generator).to_vector<double>();
  for (size_t i = x.size(); i < static_cast<size_t>(n); ++i) x.push_back(rest[i]);
  x.resize(static_cast<size_t>(n));
  return from_vector<double>(x, {n}, Device::cpu());
}

bool same(const Tensor& a, const Tensor& b) { return a.shape() == b.shape() && a.dtype() == b.dtype() && distance(a, b) == 0; }

}  // namespace

TEST_CASE("cuda: convert from every dtype to every dtype") {
  for (int64_t n : {0, 1, 7, 33, 1000}) {
    for (DType from : every_dtype) {
      Tensor x = empty({n}, {.dtype = from, .device = Device::cpu()});
      cpu::convert(x, awkward(n));
      const Tensor on_device = to(x, Device::cuda());
      for (DType dtype : every_dtype) {
        INFO(n, " elements from ", to_text(from), " to ", to_text(dtype));
        Tensor expected = empty({n}, {.dtype = dtype, .device = Device::cpu()}), y = empty({n}, {.dtype = dtype, .device = Device::cuda()});
        cpu::convert(expected, x);
        cuda::convert(y, on_device);
        CHECK(same(y, expected));
      }
    }
  }
}

TEST_CASE("cuda: convert of large integers rounds once") {
  std::vector<int64_t> values;
  for (int64_t shift = 0; shift < 62; ++shift) {
    for (int64_t step : {-1, 0, 1, 3})
      values.push_back((int64_t{1} << shift) + step), values.push_back(-(int64_t{3} << (shift / 2)) * step);
  }
  // A little over the middle of two bfloat16, where float32 would see the middle.
  for (int64_t shift = 33; shift < 62; ++shift) values.push_back((int64_t{1} << shift) + (int64_t{1} << (shift - 8)) + 1);
  const int64_t n = static_cast<int64_t>(values.size());
  const Tensor x = from_vector<int64_t>(values, {n}, Device::cpu()), on_device = to(x, Device::cuda());
  for (DType dtype : every_dtype) {
    INFO(to_text(dtype));
    Tensor expected = empty({n}, {.dtype = dtype, .device = Device::cpu()}), y = empty({n}, {.dtype = dtype, .device = Device::cuda()});
    cpu::convert(expected, x);
    cuda::convert(y, on_device);
    CHECK(same(y, expected));
  }
}

TEST_CASE("cuda: convert of views that do not begin at 16 bytes") {
  const Tensor x = awkward(99).viewed_as({33, 3}), on_device = to(x, Device::cuda());
  for (DType dtype : every_dtype) {
    Tensor expected = empty({32, 3}, {.dtype = dtype, .device = Device::cpu()}),
           y = zeros({40, 3}, {.dtype = dtype, .device = Device::cuda()});
    Tensor part = y.rows(1, 33);
    cpu::convert(expected, x.rows(1, 33));
    cuda::convert(part, on_device.rows(1, 33));
    CHECK(same(part, expected));
    for (double untouched : to(to(y.rows(33, 40), Device::cpu()), DType::float64).to_vector<double>()) CHECK(untouched == 0);
  }
}

TEST_CASE("cuda: fill and fill_range in every dtype") {
  for (DType dtype : every_dtype) {
    for (int64_t n : {0, 1, 7, 16, 33, 3000}) {
      INFO(n, " elements of ", to_text(dtype));
      Tensor expected = empty({n}, {.dtype = dtype, .device = Device::cpu()}), y = empty({n}, {.dtype = dtype, .device = Device::cuda()});
      for (double value : {0.0, 1.0, -2.7, 1e300, 1 + 0x1p-11 + 0x1p-40, infinity, quiet_nan}) {
        cpu::fill(expected, value);
        cuda::fill(y, value);
        CHECK(same(y, expected));
      }
      cpu::fill_range(expected);
      cuda::fill_range(y);
      CHECK(same(y, expected));
    }
  }
}

TEST_CASE("cuda: fill of a view leaves its neighbours alone") {
  Tensor y = zeros({5, 3}, {.device = Device::cuda()}), part = y.rows(1, 4);
  cuda::fill(part, 2);
  CHECK(to_host(y).to_vector<float>() == std::vector<float>{0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0, 0});
}

TEST_CASE("cuda: accumulate") {
  for (int64_t n : {0, 1, 7, 64, 1000}) {
    check_on_cuda({normal({n}), normal({n}, 2)}, [](const std::vector<Tensor>& in) {
      Tensor x = clone(in[0]);
      WEFT_LAUNCH(x, accumulate(x, in[1], -0.7));
      return std::vector<Tensor>{x};
    });
  }
  check_on_cuda({normal({33, 3}), normal({33, 3}, 2)}, [](const std::vector<Tensor>& in) {
    Tensor x = clone(in[0]), part = x.rows(1, 33);
    WEFT_LAUNCH(x, accumulate(part, in[1].rows(0, 32), 1));
    return std::vector<Tensor>{x};
  });
}

TEST_CASE("cuda: count_nonfinite") {
  for (int64_t n : {0, 1, 31, 257, 2100}) {
    std::vector<double> x = normal({n}).to_vector<double>();
    for (size_t i = 0; i < x.size(); ++i) {
      if (i % 7 == 0) x[i] = quiet_nan;
      if (i % 5 == 3) x[i] = i % 2 == 0 ? infinity : -infinity;
    }
    check_on_cuda({from_vector<double>(x, {n}, Device::cpu())}, [](const std::vector<Tensor>& in) {
      Tensor counts = empty({2}, {.dtype = DType::int64, .device = in[0].device()});
      WEFT_LAUNCH(in[0], count_nonfinite(counts, in[0]));
      return std::vector<Tensor>{counts};
    });
  }
}
