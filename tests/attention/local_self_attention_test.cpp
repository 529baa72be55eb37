// LocalSelfAttention: the acceptance criteria of the original's tests, and its masks. The mechanism itself is tested in local_test.cpp.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "nn/module_check.h"
#include "weft/attention/local.h"
#include "weft/attention/mask.h"
#include "weft/attention/vanilla.h"
#include "weft/autograd/ops.h"

using namespace weft;
using testing::check_module;
using testing::random;

namespace {

double largest_difference(const Tensor& a, const Tensor& b) { return a.shape() == b.shape() ? max(abs(a - b)).item() : INFINITY; }

LocalSelfAttention evaluated(const SelfAttentionOptions& options, int64_t window) {
  LocalSelfAttention module(options, {.window = window});
  convert(module, DType::float64);
  set_training(module, false);
  return module;
}

}  // namespace

TEST_CASE("LocalSelfAttention: gradients of x, all parameters and the bias") {
  check_module(LocalSelfAttention({.dim = 6, .input_dim = 5, .heads = 3, .dropout = 0, .bias = true, .rope = true, .temperature = 0.7},
                                  {.window = 4}),
               {random({2, 9, 5}), random({2, 1, 9})},
               [](const LocalSelfAttention& module, const std::vector<Tensor>& in) { return module(in[0], {.bias = in[1]}).y; });
}

TEST_CASE("LocalSelfAttention: zero outside the window, rows sum to one, the window is 2 (w / 2) + 1 wide") {
  for (int64_t n : {1, 5, 12, 33}) {
    for (int64_t window : {1, 2, 3, 4, 6, 8, 12, 128}) {
      const LocalSelfAttention module = evaluated({.dim = 8, .heads = 4}, window);
      const Attended result = module(random({2, n, 8}), {.weights = Weights::dense});
      const Tensor outside = logical_not(local_mask(n, window));
      CHECK(max(where(outside, result.weights, zeros_like(result.weights))).item() == 0);
      CHECK(min(where(outside, ones(result.weights.shape(), {.dtype = DType::float64}), result.weights)).item() > 0);
      CHECK(largest_difference(sum(result.weights, {-1}), ones({2, 4, n}, {.dtype = DType::float64})) < 1e-12);
      CHECK(largest_difference(module.attention_weights(), mean(result.weights, {1})) < 1e-15);
    }
  }
}

TEST_CASE("LocalSelfAttention equals MultiHead with the window as its mask, user masks included") {
  LocalSelfAttention narrow = evaluated({.dim = 6, .heads = 3, .bias = true, .rope = true}, 5);
  MultiHeadSelfAttention full({.dim = 6, .heads = 3, .bias = true, .rope = true});
  convert(full, DType::float64);
  set_training(full, false);
  load_state_dict(full, state_dict(narrow));
  const Tensor x = random({2, 11, 6}), window = local_mask(11, 5);
  CHECK(largest_difference(narrow(x).y, full(x, {.mask = window}).y) < 1e-13);
  CHECK(largest_difference(narrow(x, {.causal = true}).y, full(x, {.mask = combine_masks({window, causal_mask(11)})}).y) < 1e-13);
  for (const Shape& shape : {Shape{11}, Shape{11, 11}, Shape{2, 1, 11}, Shape{1, 3, 11, 11}}) {
    const Tensor mask = keep_mask(shape, 0.4, default_generator().next());
    const Tensor four = shape.rank() == 3 ? reshape(mask, {2, 1, 1, 11}) : mask;
    const Tensor expected = full(x, {.mask = logical_and(four, window)}).y;
    CHECK(largest_difference(narrow(x, {.mask = mask}).y, expected) < 1e-13);
    CHECK(largest_difference(narrow(x, {.mask = to(mask, DType::float64)}).y, expected) < 1e-13);  // zeros and ones
  }
  const Tensor lengths = from_vector<int64_t>({11, 3}, {2});
  CHECK(largest_difference(narrow(x, {.key_lengths = lengths}).y, full(x, {.mask = window, .key_lengths = lengths}).y) < 1e-13);
}

TEST_CASE("LocalSelfAttention: compact weights are the band of the dense ones, with their gradient, the output is the same") {
  for (int64_t window : {1, 4, 7, 40}) {
    for (bool causal : {false, true}) {
      CAPTURE(window);
      CAPTURE(causal);
      const int64_t half = window / 2, width = causal ? half + 1 : 2 * half + 1;
      const LocalSelfAttention module = evaluated({.dim = 6, .heads = 3}, window);
      const Tensor x = random({2, 9, 6});
      const Attended dense = module(x, {.causal = causal, .weights = Weights::dense});
      const Attended compact = module(x, {.causal = causal, .weights = Weights::compact});
      CHECK(largest_difference(dense.y, compact.y) < 1e-14);
      REQUIRE(compact.weights.shape() == Shape({2, 3, 9, width}));
      CHECK_THROWS_AS(module.attention_weights(), Error);
      const std::vector<double> all = dense.weights.to_vector<double>(), band = compact.weights.to_vector<double>();
      double largest = 0;
      for (int64_t row = 0; row < 2 * 3 * 9; ++row) {
        for (int64_t t = 0; t < width; ++t) {
          const int64_t key = row % 9 - half + t;
          const double expected = key < 0 || key >= 9 ? 0 : all[static_cast<size_t>(row * 9 + key)];
          largest = std::max(largest, std::abs(band[static_cast<size_t>(row * width + t)] - expected));
        }
      }
      CHECK(largest < 1e-14);
    }
  }
  check_module(LocalSelfAttention({.dim = 6, .heads = 3, .dropout = 0}, {.window = 4}), {random({1, 7, 6})},
               [](const LocalSelfAttention& module, const std::vector<Tensor>& in) {
                 const Attended result = module(in[0], {.weights = Weights::compact});
                 return concat({flatten(result.y), flatten(result.weights)}, 0);
               });
}

TEST_CASE("LocalSelfAttention: a window of one position returns the values, one of padding only returns zero") {
  LocalSelfAttention module = evaluated({.dim = 6, .heads = 2}, 1);
  const Tensor x = random({2, 7, 6});
  CHECK(largest_difference(module(x).y, module.w_o(module.w_v(x))) < 1e-13);
  const Tensor y = module(x, {.key_lengths = from_vector<int64_t>({7, 4}, {2})}).y;
  CHECK(max(abs(slice(slice(y, 0, 1, 2), 1, 4, 7))).item() == 0);
}

TEST_CASE("LocalSelfAttention: defaults and errors") {
  CHECK(LocalSelfAttention({.dim = 16}).head_dim() == 2);
  CHECK_THROWS_WITH_AS(LocalSelfAttention({.dim = 33}), doctest::Contains("d_model (33) must be divisible by num_heads (8)"), Error);
  CHECK_THROWS_WITH_AS(LocalSelfAttention({.dim = 33}, {.window = 0}),
                       doctest::Contains("LocalSelfAttention: the window must be at least 1"), Error);
  const LocalSelfAttention module({.dim = 16});
  CHECK_THROWS_WITH_AS(module(zeros({1, 3, 16}), {.mask = full({3, 3}, 0.5)}), doctest::Contains("a floating mask may hold 0 and 1 only"),
                       Error);
}
