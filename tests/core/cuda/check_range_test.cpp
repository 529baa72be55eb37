// Wrong indices on CUDA: nothing waits for them, and the next wait for the device names the op, the index and what it is an index of.
#include "core/cuda/on_cuda.h"
#include "weft/attention/heads.h"
#include "weft/attention/mask.h"
#include "weft/core/cuda/device.h"

using namespace weft;
using weft::testing::error_of;

namespace {

constexpr TensorOptions on_cuda{.dtype = DType::int64, .device = Device::cuda()};

Tensor ids(const std::vector<int64_t>& values) { return from_vector(values, {static_cast<int64_t>(values.size())}, Device::cuda()); }

// The error that a wait finds after f, which neither waits nor throws.
template <class F>
std::string late_error_of(F&& f) {
  synchronize(Device::cuda());
  const int64_t before = cuda::synchronization_count();
  f();
  CHECK(cuda::synchronization_count() == before);
  const std::string error = error_of([] { synchronize(Device::cuda()); });
  CHECK(error_of([] { synchronize(Device::cuda()); }).empty());  // once
  return error;
}

}  // namespace

TEST_CASE("cuda: check_range finds the first wrong index") {
  const auto check = [](const Tensor& index, int64_t size) {
    return late_error_of([&] { cuda::check_range(index, size, "op", "a list"); });
  };
  CHECK(check(ids({0, 1, 2}), 3).empty());
  CHECK(check(ids({0, 3, 7}), 3) == "op: index 3 is out of range [0, 3) of a list");
  CHECK(check(ids({2, -1, 3}), 3) == "op: index -1 is out of range [0, 3) of a list");
  CHECK(check(ids({0}), 0) == "op: index 0 is out of range [0, 0) of a list");
  CHECK(check(empty({0}, on_cuda), 0).empty());
  for (int64_t n : {1000, 20000, 100000}) {  // one block, and more
    std::vector<int64_t> values(static_cast<size_t>(n));
    CHECK(check(ids(values), 1).empty());
    values[static_cast<size_t>(n - 1)] = 9;
    CHECK(check(ids(values), 9) == "op: index 9 is out of range [0, 9) of a list");
    values[static_cast<size_t>(n / 2)] = -5;
    CHECK(check(ids(values), 9) == "op: index -5 is out of range [0, 9) of a list");
  }
  const std::string two = late_error_of([] {  // of two errors the first is told
    cuda::check_range(ids({5}), 5, "first", "a");
    cuda::check_range(ids({6}), 5, "second", "b");
  });
  CHECK(two == "first: index 5 is out of range [0, 5) of a");
}

TEST_CASE("cuda: a wrong index is told by whatever waits next") {
  const Tensor x = ones({2}, {.device = Device::cuda()});
  cuda::check_range(ids({5}), 5, "op", "a");
  CHECK(error_of([&] { x.to_vector<float>(); }) == "op: index 5 is out of range [0, 5) of a");
  CHECK(x.to_vector<float>() == std::vector<float>{1, 1});
}

TEST_CASE("cuda: ops name themselves, the index and the table") {
  const Tensor x = ones({3, 4}, {.device = Device::cuda()});
  CHECK(late_error_of([&] {
          embedding(x, ids({0, 5}));
        }) == "embedding: index 5 is out of range [0, 3) of axis 0 of float32 [3, 4] on cuda:0");
  CHECK(late_error_of([&] { index_select(x, 1, ids({-1})); }) ==
        "index_select: index -1 is out of range [0, 4) of axis 1 of float32 [3, 4] on cuda:0");
  CHECK(late_error_of([&] {
          gather(x, 1, ids({0, 4, 1}).viewed_as({3, 1}));
        }) == "gather: index 4 is out of range [0, 4) of axis 1 of float32 [3, 4] on cuda:0");
  CHECK(late_error_of([&] {
          scatter_add(x, 1, ids({0, 7, 1}).viewed_as({3, 1}), ones({3, 1}, x.options()));
        }) == "scatter_add: index 7 is out of range [0, 4) of axis 1 of float32 [3, 4] on cuda:0");
  CHECK(late_error_of([&] { one_hot(ids({3}), 3, {.device = Device::cuda()}); }) ==
        "one_hot: index 3 is out of range [0, 3) of the classes");
}

TEST_CASE("cuda: key lengths") {
  const Tensor q = zeros({2, 5, 6, 4}, {.device = Device::cuda()}), k = zeros({2, 7, 3, 4}, {.device = Device::cuda()});
  const AttentionSizes sizes = check_qkv("op", q, k, k, AttentionLayout::bnhd);
  const auto check = [&](const std::vector<int64_t>& lengths) {
    return late_error_of([&] { check_attend_options("op", sizes, q, {.key_lengths = ids(lengths)}); });
  };
  CHECK(check({0, 7}).empty());
  CHECK(check({3, 99}) == "op: a length of 99 in key_lengths[1], but there are 7 keys");
  CHECK(check({-3, 7}) == "op: a length of -3 in key_lengths[0], but there are 7 keys");
  CHECK(late_error_of([&] { padding_mask(ids({3, 1}), 4); }).empty());
  CHECK(to_host(padding_mask(ids({3, 1}), 4)).to_vector<bool>() == std::vector<bool>{true, true, true, false, true, false, false, false});
}

TEST_CASE("cuda: cross_entropy of a wrong target") {
  Tensor x = ones({3, 4}, {.device = Device::cuda()});
  set_requires_grad(x, true);
  const Tensor loss = cross_entropy(x, ids({1, 3, 0}));
  CHECK(loss.item() == doctest::Approx(std::log(4.0)));
  backward(loss);
  for (int64_t wrong : {int64_t{4}, int64_t{-1}, int64_t{1} << 40}) {
    const std::string error = late_error_of([&] { backward(cross_entropy(x, ids({1, wrong, 0}))); });
    CHECK(error == format("cross_entropy: target {} is out of range for 4 classes (ignore_index is -100)", wrong));
  }
}

TEST_CASE("cuda: targets of cross_entropy") {
  for (DType dtype : {DType::float32, DType::float64}) {
    const auto check = [&](const std::vector<int64_t>& targets, int64_t ignored, double expected) {
      Tensor share = empty({}, {.dtype = dtype, .device = Device::cuda()});
      const std::string error = late_error_of([&] { cuda::target_share(share, ids(targets), 5, ignored, "target {} in place {}"); });
      CHECK(share.item() == (dtype == DType::float32 ? static_cast<double>(static_cast<float>(expected)) : expected));
      Tensor on_cpu = empty({}, {.dtype = dtype, .device = Device::cpu()});
      CHECK(error_of([&] { cpu::target_share(on_cpu, to_host(ids(targets)), 5, ignored, "target {} in place {}"); }) == error);
      if (error.empty()) CHECK(on_cpu.item() == share.item());
      return error;
    };
    CHECK(check({0, 4, 2}, -100, 1.0 / 3).empty());
    CHECK(check({0, -100, 2, -100, 1, 1, 1, 1, 1}, -100, 1.0 / 7).empty());
    CHECK(check({0, 3, 3}, 3, 1).empty());
    CHECK(check({9, 9}, 9, std::numeric_limits<double>::infinity()).empty());
    CHECK(check({}, 9, std::numeric_limits<double>::infinity()).empty());
    CHECK(check({9, 0, 5, -1}, 9, 1.0 / 3) == "target 5 in place 2");
  }
}
