// Tensors without a graph: creation, copies, dtypes and their conversion, memory, errors.
#include "weft/core/tensor.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <sstream>

#include "weft/core/kernels.h"

using namespace weft;

namespace {

const std::vector<DType> all_dtypes = {DType::float32, DType::float64, DType::float16, DType::bfloat16, DType::int64, DType::boolean};

Tensor converted(const Tensor& x, DType dtype) {
  Tensor y = empty(x.shape(), {.dtype = dtype});
  WEFT_LAUNCH(y, convert(y, x));
  return y;
}

// All 65536 patterns of a half type as a tensor.
template <class Half>
Tensor all_patterns() {
  std::vector<Half> patterns(65536);
  for (size_t i = 0; i < patterns.size(); ++i) patterns[i].bits = static_cast<uint16_t>(i);
  return from_vector(patterns, {65536});
}

// Whether every pattern survives a conversion to `through` and back; NaNs come back quiet.
template <class Half>
void check_round_trip(DType through, uint16_t quiet_bit) {
  const Tensor x = all_patterns<Half>();
  const auto back = converted(converted(x, through), dtype_of<Half>).template to_vector<Half>();
  size_t wrong = 0;
  for (size_t i = 0; i < back.size(); ++i) {
    Half pattern;
    pattern.bits = static_cast<uint16_t>(i);
    const bool is_nan = std::isnan(static_cast<float>(pattern));
    wrong += (back[i].bits | (is_nan ? quiet_bit : 0)) == (i | (is_nan ? quiet_bit : 0)) ? 0 : 1;
  }
  CHECK(wrong == 0);
}

// Rounding to nearest even, checked between all neighbours: below the middle, in the middle, above it; scalar code and kernel alike.
template <class Half, class Wide>
void check_rounding(uint16_t infinity) {
  std::vector<Wide> in;
  std::vector<uint16_t> expected;
  const auto value = [](uint16_t bits) {
    Half half;
    half.bits = bits;
    return static_cast<Wide>(static_cast<float>(half));
  };
  for (uint16_t bits = 0; bits + 1 < infinity; ++bits) {
    const Wide low = value(bits), high = value(static_cast<uint16_t>(bits + 1));
    const Wide middle = low / 2 + high / 2;
    const uint16_t even = static_cast<uint16_t>(bits + (bits & 1));
    for (const auto& [x, want] : {std::pair{std::nextafter(middle, low), bits}, std::pair{middle, even},
                                  std::pair{std::nextafter(middle, high), static_cast<uint16_t>(bits + 1)}}) {
      in.push_back(x);
      in.push_back(-x);
      expected.push_back(want);
      expected.push_back(static_cast<uint16_t>(want | 0x8000));
    }
  }
  const auto got = converted(from_vector(in, {static_cast<int64_t>(in.size())}), dtype_of<Half>).template to_vector<Half>();
  size_t wrong = 0;
  for (size_t i = 0; i < in.size(); ++i) wrong += got[i].bits == expected[i] && Half(in[i]).bits == expected[i] ? 0 : 1;
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("tensor: creation") {
  for (DType dtype : all_dtypes) {
    INFO(to_text(dtype));
    const Tensor x = full({2, 3}, 1, {.dtype = dtype});
    CHECK((x.defined() && x.dtype() == dtype && x.shape() == Shape{2, 3} && x.rank() == 2 && x.numel() == 6));
    CHECK(x.bytes() == 6 * size_of(dtype));
    CHECK(x.device() == default_device());
    CHECK(converted(x, DType::float64).to_vector<double>() == std::vector<double>(6, 1.0));
    CHECK(converted(zeros_like(x), DType::float64).to_vector<double>() == std::vector<double>(6, 0.0));
    CHECK(scalar(1, {.dtype = dtype}).item() == 1);
    CHECK(empty_like(x).shape() == x.shape());
    CHECK(empty({0, 4}, {.dtype = dtype}).numel() == 0);
    CHECK(reinterpret_cast<uintptr_t>(x.raw()) % 64 == 0);
  }
  CHECK(!Tensor().defined());
  CHECK(arange(4).to_vector<int64_t>() == std::vector<int64_t>{0, 1, 2, 3});
  CHECK(arange(3, {}).to_vector<float>() == std::vector<float>{0, 1, 2});
  CHECK(ones({2}).to_vector<float>() == std::vector<float>{1, 1});
  CHECK(from_vector<bool>({true, false}, {2}).to_vector<bool>() == std::vector<bool>{true, false});
  CHECK(from_vector<float>({}, {0, 3}).to_vector<float>().empty());
  const Tensor large = full({300, 1000}, 7);
  for (float v : large.to_vector<float>()) REQUIRE(v == 7);
}

TEST_CASE("tensor: handles share, clones and copies do not") {
  Tensor x = from_vector<float>({1, 2, 3, 4}, {4});
  const Tensor same = x, copy = clone(x);
  const uint64_t version = x.version();
  x.copy_from(from_vector<float>({5, 6, 7, 8}, {4}));
  CHECK(same.to_vector<float>() == std::vector<float>{5, 6, 7, 8});
  CHECK(copy.to_vector<float>() == std::vector<float>{1, 2, 3, 4});
  CHECK(same.version() == version + 1);
  CHECK(!x.sole_owner());
  CHECK(copy.sole_owner());

  const Tensor square = x.viewed_as({2, 2});
  CHECK(square.storage() == x.storage());
  CHECK(square.rows(1, 2).to_vector<float>() == std::vector<float>{7, 8});
  CHECK(square.rows(1, 1).numel() == 0);
  CHECK(square.rows(1, 2).raw() == x.data<float>() + 2);
  CHECK(square.size(-1) == 2);
}

TEST_CASE("tensor: every dtype converts to every other") {
  const std::vector<double> in = {0, 1, 2, 3, 100, 1, 0, 17};
  for (DType from : all_dtypes) {
    for (DType to : all_dtypes) {
      INFO(to_text(from), " to ", to_text(to));
      const bool through_bool = from == DType::boolean || to == DType::boolean;
      const auto got = converted(converted(converted(from_vector<double>(in, {2, 4}), from), to), DType::float64).to_vector<double>();
      for (size_t i = 0; i < in.size(); ++i) CHECK(got[i] == (through_bool ? (in[i] != 0 ? 1 : 0) : in[i]));
    }
  }
}

TEST_CASE("tensor: conversion to int64 goes towards zero and stays in range, to bool, everything but zero is true") {
  constexpr double inf = std::numeric_limits<double>::infinity(), not_a_number = std::numeric_limits<double>::quiet_NaN();
  constexpr int64_t lowest = std::numeric_limits<int64_t>::min(), highest = std::numeric_limits<int64_t>::max();
  const Tensor x = from_vector<double>({1.9, -1.9, 1e300, -1e300, inf, -inf, not_a_number, 0.0, -0.0, 0x1p62}, {10});
  const std::vector<int64_t> expected = {1, -1, highest, lowest, highest, lowest, 0, 0, 0, int64_t{1} << 62};
  CHECK(converted(x, DType::int64).to_vector<int64_t>() == expected);
  CHECK(converted(converted(x, DType::float32), DType::int64).to_vector<int64_t>() == expected);
  CHECK(converted(x, DType::boolean).to_vector<bool>() == std::vector<bool>{true, true, true, true, true, true, true, false, false, true});
}

TEST_CASE("tensor: all float16 and bfloat16 patterns survive float32 and float64") {
  for (DType through : {DType::float32, DType::float64}) {
    check_round_trip<float16>(through, 0x200);
    check_round_trip<bfloat16>(through, 0x40);
  }
  const auto halves = converted(all_patterns<float16>(), DType::float64).to_vector<double>();
  CHECK(halves[0x3c00] == 1);
  CHECK(halves[0x0001] == 0x1p-24);
  CHECK(halves[0x03ff] == 1023 * 0x1p-24);
  CHECK(halves[0x7bff] == 65504);
  CHECK(halves[0x7c00] == std::numeric_limits<double>::infinity());
  CHECK(std::signbit(halves[0x8000]));
  // The scalar conversion and the kernel's agree on every pattern.
  const auto floats = converted(all_patterns<float16>(), DType::float32).to_vector<float>();
  size_t different = 0;
  for (size_t i = 0; i < floats.size(); ++i) {
    float16 half;
    half.bits = static_cast<uint16_t>(i);
    different += std::bit_cast<uint32_t>(floats[i]) == std::bit_cast<uint32_t>(static_cast<float>(half)) ? 0 : 1;
  }
  CHECK(different == 0);
}

TEST_CASE("tensor: conversion to half types rounds to nearest even, once") {
  check_rounding<float16, float>(0x7c00);
  check_rounding<float16, double>(0x7c00);
  check_rounding<bfloat16, float>(0x7f80);
  check_rounding<bfloat16, double>(0x7f80);
  CHECK(float16(65519.0F).bits == 0x7bff);
  CHECK(float16(65520.0F).bits == 0x7c00);
  CHECK(float16(-1e30).bits == 0xfc00);
  CHECK(float16(1e300).bits == 0x7c00);
  CHECK(float16(0x1p-25).bits == 0);
  CHECK(float16(std::nextafter(0x1p-25, 1.0)).bits == 1);
  CHECK(bfloat16(3.4e38F).bits == 0x7f80);
  CHECK(bfloat16(std::numeric_limits<double>::max()).bits == 0x7f80);
  CHECK(std::isnan(static_cast<float>(bfloat16(std::numeric_limits<float>::quiet_NaN()))));
  CHECK(std::isnan(static_cast<float>(float16(std::numeric_limits<double>::quiet_NaN()))));
}

TEST_CASE("tensor: bytes in use, their peak, and memory given back") {
  const int64_t before = bytes_in_use();
  reset_peak_bytes();
  {
    const Tensor a = zeros({1024});
    CHECK(bytes_in_use() == before + 4096);
    {
      const Tensor b = zeros({1024}), handle = b;
      CHECK(bytes_in_use() == before + 2 * 4096);
    }
    CHECK(bytes_in_use() == before + 4096);
  }
  CHECK(bytes_in_use() == before);
  CHECK(peak_bytes() == before + 2 * 4096);
  reset_peak_bytes();
  CHECK(peak_bytes() == before);
  const Tensor nothing = empty({0});
  CHECK(bytes_in_use() == before);
  release_cached_memory();
  CHECK(bytes_in_use() == before);
}

TEST_CASE("tensor: blocks are used again by tensors of about their size") {
  const int64_t before = bytes_in_use();
  release_cached_memory();
  [[maybe_unused]] const void* block = nullptr;
  {
    const Tensor x = empty({100'000});
    block = x.raw();
    CHECK(bytes_in_use() == before + 400'000);  // what was asked for, not what the block could hold
  }
  const Tensor y = empty({102'000});
#ifndef WEFT_SANITIZED
  CHECK(y.raw() == block);
#endif
  CHECK(bytes_in_use() == before + 408'000);
}

TEST_CASE("tensor: undefined tensors have no element, and what needs one says so") {
  Tensor nothing;
  CHECK(nothing.numel() == 0);
  CHECK(nothing.bytes() == 0);
  nothing.bump_version();
  CHECK(nothing.version() == 0);
  CHECK_THROWS_WITH_AS(nothing.to_vector<float>(),
                       "to_vector: the tensor is undefined (a gradient before the first backward, or an option that was not given)", Error);
  Tensor x = zeros({2});
  CHECK_THROWS_WITH_AS(nothing.copy_from(Tensor()),
                       "copy_from: the tensor is an undefined tensor, the source an undefined tensor; both must be defined", Error);
  CHECK_THROWS_WITH_AS(x.copy_from(nothing), "copy_from: the tensor is float32 [2], the source an undefined tensor; both must be defined",
                       Error);
  CHECK_THROWS_WITH_AS(nothing.viewed_as({1}), "reshape: the tensor is undefined", Error);
}

TEST_CASE("tensor: options and host copies") {
  const Tensor x = arange(3);
  CHECK(x.options().dtype == DType::int64);
  CHECK(zeros({2}, x.options()).to_vector<int64_t>() == std::vector<int64_t>{0, 0});
  CHECK((to_host(x).storage() == x.storage()) == !x.device().is_cuda());
  CHECK(!to_host(Tensor()).defined());
}

TEST_CASE("tensor: shapes broadcast from the right") {
  CHECK(broadcast_shapes("op", {2, 1, 3}, {4, 1}) == Shape{2, 4, 3});
  CHECK(broadcast_shapes("op", {}, {4, 1}) == Shape{4, 1});
  CHECK(broadcast_shapes("op", {0}, {1}) == Shape{0});
  CHECK_THROWS_WITH_AS(broadcast_shapes("op", {2, 3}, {2, 4}),
                       "op: shapes [2, 3] and [2, 4] do not broadcast: sizes 3 and 4 differ and neither is 1", Error);
  CHECK_THROWS_WITH_AS(broadcast_shapes("op", {0}, {2}), "op: shapes [0] and [2] do not broadcast: sizes 0 and 2 differ and neither is 1",
                       Error);
  CHECK(broadcasts_to({}, {2, 3}));
  CHECK(broadcasts_to({1, 3}, {2, 3}));
  CHECK(broadcasts_to({2, 0}, {2, 0}));
  CHECK(!broadcasts_to({2, 3}, {1, 3}));
  CHECK(!broadcasts_to({1, 2, 3}, {2, 3}));
  CHECK(!broadcasts_to({0}, {2}));
  const std::vector<int64_t> sizes = Shape{2, 3};
  CHECK(sizes == std::vector<int64_t>{2, 3});
  CHECK(normalize_axis("op", -1, 3) == 2);
  CHECK_THROWS_WITH_AS(normalize_axis("op", 3, 3), "op: axis 3 is out of range for a tensor of 3 dimensions", Error);
  CHECK_THROWS_WITH_AS(normalize_axis("op", 2, Shape{2, 3}), "op: axis 2 is out of range for a tensor of shape [2, 3]", Error);
  Shape shape{2, 3, 4};
  CHECK(shape[-1] == 4);
  CHECK(shape.back(2) == 2);
  shape[-3] = 5;
  CHECK(shape == Shape{5, 3, 4});
  CHECK_THROWS_WITH_AS(shape[3], "shape: axis 3 is out of range for [5, 3, 4]", Error);
  CHECK_THROWS_WITH_AS(shape[-4], "shape: axis -4 is out of range for [5, 3, 4]", Error);
  CHECK_THROWS_WITH_AS(Shape().back(), "shape: axis -1 is out of range for []", Error);
  std::ostringstream out;
  out << shape;
  CHECK(out.str() == "[5, 3, 4]");
  CHECK_THROWS_WITH_AS((Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}),
                       "shape: at most 8 dimensions are supported, got [1, 1, 1, 1, 1, 1, 1, 1] and one more of size 1", Error);
  CHECK_THROWS_WITH_AS(Shape{-1}, "shape: sizes must not be negative, got -1", Error);
}

TEST_CASE("tensor: axes of a shape are inserted and erased, counted from either end") {
  Shape shape{2, 3};
  shape.insert(0, 4);
  shape.insert(-1, 5);
  shape.insert(-2, 6);
  shape.insert(5, 7);
  CHECK(shape == Shape{4, 2, 3, 6, 5, 7});
  CHECK_THROWS_WITH_AS(shape.insert(7, 1), "shape: an axis cannot be inserted into [4, 2, 3, 6, 5, 7] at 7", Error);
  CHECK_THROWS_WITH_AS(shape.insert(-8, 1), "shape: an axis cannot be inserted into [4, 2, 3, 6, 5, 7] at -8", Error);
  shape.insert(-7, 8);
  CHECK(shape == Shape{8, 4, 2, 3, 6, 5, 7});
  shape.erase(-1);
  shape.erase(0);
  shape.erase(-2);
  CHECK(shape == Shape{4, 2, 3, 5});
  CHECK_THROWS_WITH_AS(shape.erase(4), "shape: axis 4 is out of range for [4, 2, 3, 5]", Error);
  CHECK_THROWS_WITH_AS(shape.erase(-5), "shape: axis -5 is out of range for [4, 2, 3, 5]", Error);
  CHECK_THROWS_WITH_AS(Shape().erase(0), "shape: axis 0 is out of range for []", Error);
  shape = Shape();
  shape.insert(-1, 9);
  CHECK(shape == Shape{9});
}

TEST_CASE("tensor: errors name what was expected and what came") {
  Tensor x = zeros({2, 3});
  CHECK_THROWS_WITH_AS(x.data<double>(), "data<float64>: the tensor is float32 [2, 3]; convert with to(x, DType::float64)", Error);
  CHECK_THROWS_WITH_AS(x.to_vector<int64_t>(), "data<int64>: the tensor is float32 [2, 3]; convert with to(x, DType::int64)", Error);
  CHECK_THROWS_WITH_AS(x.item(), "item: expected a tensor of one element, got float32 [2, 3]", Error);
  CHECK_THROWS_WITH_AS(Tensor().item(), "item: expected a tensor of one element, got an undefined tensor", Error);
  CHECK_THROWS_WITH_AS(x.copy_from(zeros({3, 2})), "copy_from: expected float32 [2, 3], got float32 [3, 2]", Error);
  CHECK_THROWS_WITH_AS(x.viewed_as({4}), "reshape: [2, 3] has 6 elements, [4] would have 4", Error);
  CHECK_THROWS_WITH_AS(x.rows(1, 3), "rows: [1, 3) is out of range for [2, 3]", Error);
  CHECK_THROWS_WITH_AS(x.size(2), "size: axis 2 is out of range for a tensor of shape [2, 3]", Error);
  CHECK_THROWS_WITH_AS(Tensor().data<float>(),
                       "data<float32>: the tensor is undefined (a gradient before the first backward, or an option that was not given)",
                       Error);
  CHECK_THROWS_WITH_AS(empty({int64_t{1} << 60, 4}), "empty: shape [1152921504606846976, 4] is larger than any memory", Error);
  CHECK_THROWS_WITH_AS(from_vector<float>({1, 2}, {3}), "from_vector: 2 values do not fill shape [3] (3 elements)", Error);
  constexpr int64_t huge = int64_t{1} << 40;
  CHECK_THROWS_WITH_AS(zeros({huge, huge}), "empty: shape [1099511627776, 1099511627776] is larger than any memory", Error);
  CHECK_THROWS_WITH_AS(arange(-1), "arange: the length must not be negative, got -1", Error);
  CHECK_THROWS_WITH_AS(clone(Tensor()), "clone: the tensor is undefined", Error);
  CHECK_THROWS_WITH_AS(parse_device("tpu"), "device: expected cpu, cuda or cuda:N, got \"tpu\"", Error);
  CHECK_THROWS_WITH_AS(parse_device("cuda:99"), doctest::Contains("\"cuda:99\""), Error);
  CHECK_THROWS_WITH_AS(parse_device("cuda:"), "device: expected cpu, cuda or cuda:N, got \"cuda:\"", Error);
  CHECK_THROWS_WITH_AS(set_num_threads(0), "set_num_threads: expected 1 to 1024 threads, got 0", Error);
  CHECK_THROWS_WITH_AS(set_num_threads(1025), "set_num_threads: expected 1 to 1024 threads, got 1025", Error);
  CHECK(parse_device("cpu") == Device::cpu());
  CHECK(to_string(Device::cuda(1)) == "cuda:1");
}
