// Random tensors on CUDA are the CPU's: the same bits for uniforms, integers and masks; normals up to what logarithms and sines are off.
#include "core/cuda/on_cuda.h"

using namespace weft;
using weft::testing::check_on_cuda;
using weft::testing::close;
using weft::testing::compute_dtypes;
using weft::testing::distance;
using weft::testing::normal;

namespace {

const std::vector<int64_t> sizes = {0, 1, 2, 3, 7, 8, 33, 1000, 5003};
// Seeds and offsets with bits in both halves.
const std::vector<RandomKey> keys = {{0, 0}, {7, 3}, {0x123456789abcdef0U, 0xfedcba9876543210U}};

Tensor on_cpu(int64_t n, DType dtype) { return empty({n}, {.dtype = dtype, .device = Device::cpu()}); }
Tensor on_cuda(int64_t n, DType dtype) { return empty({n}, {.dtype = dtype, .device = Device::cuda()}); }

bool is_half(DType dtype) { return dtype == DType::float16 || dtype == DType::bfloat16; }
// What the CPU computes in.
DType computing(DType dtype) { return is_half(dtype) ? DType::float32 : dtype; }

}  // namespace

TEST_CASE("cuda: uniform numbers have the CPU's bits") {
  for (DType dtype : compute_dtypes) {
    for (int64_t n : sizes) {
      for (const RandomKey& key : keys) {
        INFO(n, " elements of ", to_text(dtype));
        Tensor expected = on_cpu(n, computing(dtype)), y = on_cuda(n, dtype);
        cpu::fill_uniform(expected, -1.5, 0.7, key);
        cuda::fill_uniform(y, -1.5, 0.7, key);
        CHECK(distance(y, to(expected, dtype)) == 0);
      }
    }
  }
}

TEST_CASE("cuda: uniform numbers stay below the upper bound, also after rounding") {
  struct Range {
    double low, high;
  };
  for (DType dtype : compute_dtypes) {
    for (const auto& [low, high] : {Range{0, 1}, Range{-1, 0}, Range{-3, -1}, Range{1, 1 + 0x1p-5}, Range{0, 1.0009}, Range{2, 2}}) {
      INFO(to_text(dtype), " from ", low, " to ", high);
      Tensor y = on_cuda(20000, dtype), numbers = on_cpu(20000, computing(dtype));
      cuda::fill_uniform(y, low, high, {1, 2});
      cpu::fill_uniform(numbers, low, high, {1, 2});
      const std::vector<double> got = to(to_host(y), DType::float64).to_vector<double>();
      const std::vector<double> same = to(to(numbers, dtype), DType::float64).to_vector<double>();
      int64_t outside = 0, different = 0;
      for (size_t i = 0; i < got.size(); ++i) {
        outside += got[i] < low || (got[i] >= high && low < high) ? 1 : 0;
        different += got[i] != same[i] && same[i] < high ? 1 : 0;
      }
      CHECK(outside == 0);
      CHECK(different == 0);
    }
  }
}

TEST_CASE("cuda: normal numbers") {
  for (DType dtype : compute_dtypes) {
    for (int64_t n : sizes) {
      for (const RandomKey& key : keys) {
        INFO(n, " elements of ", to_text(dtype));
        Tensor expected = on_cpu(n, computing(dtype)), y = on_cuda(n, dtype);
        cpu::fill_normal(expected, 0.3, 1.7, key);
        cuda::fill_normal(y, 0.3, 1.7, key);
        if (is_half(dtype)) {  // a number near the middle of two may go either way
          CHECK(close(to(to_host(y), DType::float32), expected, weft::testing::unit_roundoff(dtype) + 1e-6));
        } else {
          CHECK(close(to_host(y), expected, dtype == DType::float64 ? 1e-14 : 1e-6));
        }
      }
    }
  }
}

TEST_CASE("cuda: random integers and masks") {
  for (int64_t n : sizes) {
    for (const RandomKey& key : keys) {
      for (int64_t high : {int64_t{1}, int64_t{2}, int64_t{1000}, (int64_t{1} << 62) + 12345}) {
        INFO(n, " integers below ", high);
        Tensor expected = on_cpu(n, DType::int64), y = on_cuda(n, DType::int64);
        cpu::fill_integers(expected, high, key);
        cuda::fill_integers(y, high, key);
        CHECK(to_host(y).to_vector<int64_t>() == expected.to_vector<int64_t>());
      }
      const double at_a_word = key.word(5) * 0x1p-32;  // element 5 is exactly at the threshold, and kept
      for (double p : {0.0, 0.1, 0.5, 1.0, at_a_word}) {
        INFO(n, " bools, p ", p);
        Tensor expected = on_cpu(n, DType::boolean), y = on_cuda(n, DType::boolean);
        cpu::fill_keep_mask(expected, p, key);
        cuda::fill_keep_mask(y, p, key);
        CHECK(to_host(y).to_vector<bool>() == expected.to_vector<bool>());
      }
    }
  }
}

TEST_CASE("cuda: dropout keeps what the mask of its key keeps") {
  for (int64_t n : sizes) {
    for (double p : {0.0, 0.1, 0.5, 1.0, RandomKey{5, 6}.word(5) * 0x1p-32}) {
      INFO(n, " elements, p ", p);
      check_on_cuda({normal({n})}, [=](const std::vector<Tensor>& in) {
        Tensor y = empty_like(in[0]), mask = empty(in[0].shape(), {.dtype = DType::boolean, .device = in[0].device()});
        WEFT_LAUNCH(y, dropout(y, in[0], p, {5, 6}));
        WEFT_LAUNCH(y, fill_keep_mask(mask, p, {5, 6}));
        return std::vector<Tensor>{y, to(y, DType::boolean), mask};
      });
    }
  }
}

TEST_CASE("cuda: random numbers of views that do not begin at 16 bytes") {
  Tensor expected = zeros({33, 3}, {.device = Device::cpu()}), y = zeros({33, 3}, {.device = Device::cuda()});
  Tensor part = y.rows(1, 32), expected_part = expected.rows(1, 32);
  cpu::fill_uniform(expected_part, 0, 1, {1, 2});
  cuda::fill_uniform(part, 0, 1, {1, 2});
  CHECK(distance(y, expected) == 0);
  cpu::fill_normal(expected_part, 0, 1, {1, 2});
  cuda::fill_normal(part, 0, 1, {1, 2});
  CHECK(close(to_host(y), expected, 1e-6));
  cpu::dropout(expected_part, expected_part, 0.3, {1, 2});
  cuda::dropout(part, part, 0.3, {1, 2});
  CHECK(close(to_host(y), expected, 1e-6));
}
