#include "weft/attention/heads.h"

#include <cmath>

#include "testing.h"
#include "weft/autograd/gradcheck.h"
#include "weft/autograd/ops.h"

using namespace weft;
using testing::random;

TEST_CASE("split_heads and merge_heads: each head takes adjacent features, inverse of one another") {
  const Tensor x = random({2, 5, 12});
  const Tensor heads = split_heads(x, 3);
  CHECK(heads.shape() == Shape({2, 3, 5, 4}));
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t h = 0; h < 3; ++h) {
      for (int64_t i = 0; i < 5; ++i) {
        for (int64_t e = 0; e < 4; ++e) {
          CHECK(testing::on_host<double>(heads)[((b * 3 + h) * 5 + i) * 4 + e] ==
                testing::on_host<double>(x)[(b * 5 + i) * 12 + h * 4 + e]);
        }
      }
    }
  }
  CHECK(merge_heads(heads).to_vector<double>() == x.to_vector<double>());
  gradcheck([](const std::vector<Tensor>& in) { return split_heads(in[0], 3); }, {random({2, 7, 6})});
  gradcheck([](const std::vector<Tensor>& in) { return merge_heads(in[0]); }, {random({2, 3, 7, 1})});
  CHECK(split_heads(zeros({2, 0, 12}), 3).shape() == Shape({2, 3, 0, 4}));
  CHECK(merge_heads(zeros({0, 3, 5, 4})).shape() == Shape({0, 5, 12}));
  CHECK_THROWS_WITH_AS(split_heads(x, 5), doctest::Contains("must be divisible by 5 heads"), Error);
  CHECK_THROWS_WITH_AS(split_heads(zeros({2, 5}), 1), doctest::Contains("split_heads: expected [B, N, H * D]"), Error);
  CHECK_THROWS_WITH_AS(merge_heads(x), doctest::Contains("merge_heads: expected [B, H, N, D]"), Error);
}

TEST_CASE("as_heads: heads apart, in the same memory") {
  const Tensor x = random({2, 5, 12});
  const Tensor heads = as_heads(x, 3);
  CHECK(heads.shape() == Shape({2, 5, 3, 4}));
  CHECK(heads.raw() == x.raw());
  gradcheck([](const std::vector<Tensor>& in) { return as_heads(in[0], 3); }, {random({2, 7, 6})});
  CHECK_THROWS_WITH_AS(as_heads(x, 5), doctest::Contains("as_heads: the last axis of float64 [2, 5, 12] must be divisible by 5 heads"),
                       Error);
  CHECK_THROWS_WITH_AS(as_heads(zeros({2, 5}), 1), doctest::Contains("as_heads: expected [B, N, H * D]"), Error);
}

TEST_CASE("check_qkv reads the sizes in both layouts") {
  const Tensor q = zeros({2, 5, 6, 4}), k = zeros({2, 7, 3, 4}), v = zeros({2, 7, 3, 9});
  const AttentionSizes sizes = check_qkv("op", q, k, v, AttentionLayout::bnhd);
  CHECK(sizes.scores() == Shape({2, 6, 5, 7}));
  CHECK(sizes.group() == 2);
  CHECK(sizes.head_dim == 4);
  CHECK(sizes.value_dim == 9);
  const AttentionSizes first = check_qkv("op", zeros({2, 6, 5, 4}), zeros({2, 3, 7, 4}), zeros({2, 3, 7, 9}), AttentionLayout::bhnd);
  CHECK(first.scores() == sizes.scores());
}

TEST_CASE("check_qkv: errors") {
  const Tensor q = zeros({2, 5, 6, 4}), k = zeros({2, 7, 3, 4});
  const auto check = [&](const Tensor& a, const Tensor& b, const Tensor& c) { check_qkv("local", a, b, c, AttentionLayout::bnhd); };
  CHECK_THROWS_WITH_AS(check(q, k, {}), doctest::Contains("local: q, k and v must be given"), Error);
  CHECK_THROWS_WITH_AS(check(zeros({2, 5, 4}), k, k), doctest::Contains("expected q, k and v as [B, N, H, D]"), Error);
  CHECK_THROWS_WITH_AS(check(q, k, random({2, 7, 3, 4})), doctest::Contains("must share dtype and device"), Error);
  CHECK_THROWS_WITH_AS(check(zeros({1, 5, 6, 4}), k, k), doctest::Contains("batch sizes differ"), Error);
  CHECK_THROWS_WITH_AS(check(zeros({2, 5, 6, 8}), k, k), doctest::Contains("q and k need the same head_dim"), Error);
  CHECK_THROWS_WITH_AS(check(q, k, zeros({2, 8, 3, 4})), doctest::Contains("k and v need the same keys and heads"), Error);
  CHECK_THROWS_WITH_AS(check(zeros({2, 5, 4, 4}), k, k), doctest::Contains("the heads of q (4) must be a multiple of those of k and v (3)"),
                       Error);
}

TEST_CASE("check_attend_options: errors") {
  const Tensor q = zeros({2, 5, 6, 4}), k = zeros({2, 7, 3, 4});
  const AttentionSizes sizes = check_qkv("op", q, k, k, AttentionLayout::bnhd);
  const auto check = [&](const AttendOptions& options) { check_attend_options("op", sizes, q, options); };
  CHECK_NOTHROW(
      check({.mask = ones({5, 7}, {.dtype = DType::boolean}), .bias = zeros({2, 1, 1, 7}), .dropout_multiplier = zeros({6, 5, 1})}));
  CHECK_THROWS_WITH_AS(check({.mask = zeros({5, 7})}), doctest::Contains("op: mask must be bool"), Error);
  CHECK_THROWS_WITH_AS(check({.mask = ones({4, 7}, {.dtype = DType::boolean})}),
                       doctest::Contains("mask [4, 7] does not broadcast to the scores [2, 6, 5, 7]"), Error);
  CHECK_THROWS_WITH_AS(check({.mask = ones({1, 1, 1, 5, 7}, {.dtype = DType::boolean})}), doctest::Contains("does not broadcast"), Error);
  CHECK_THROWS_WITH_AS(check({.bias = random({5, 7})}), doctest::Contains("bias must have the dtype of q (float32)"), Error);
  CHECK_THROWS_WITH_AS(check({.dropout_multiplier = random({5, 7})}), doctest::Contains("dropout_multiplier must have the dtype of q"),
                       Error);
  CHECK_THROWS_WITH_AS(check({.key_lengths = zeros({3}, {.dtype = DType::int64})}), doctest::Contains("key_lengths must be int64 [2]"),
                       Error);
  // Lengths that claim to be on another device.
  const Tensor lengths = zeros({2}, {.dtype = DType::int64});
  CHECK_NOTHROW(check({.key_lengths = lengths}));
  CHECK_NOTHROW(check({.key_lengths = from_vector<int64_t>({0, 7}, {2})}));
  CHECK_THROWS_WITH_AS((check({.key_lengths = from_vector<int64_t>({3, 99}, {2})}), synchronize()),
                       "op: a length of 99 in key_lengths[1], but there are 7 keys", Error);
  CHECK_THROWS_WITH_AS((check({.key_lengths = from_vector<int64_t>({-3, 7}, {2})}), synchronize()),
                       "op: a length of -3 in key_lengths[0], but there are 7 keys", Error);
  CHECK_THROWS_WITH_AS(check({.compact_weights = true}), doctest::Contains("op: compact_weights needs return_weights"), Error);
  const Device here = default_device(), elsewhere = here.is_cuda() ? Device::cpu() : Device::cuda();
  lengths.storage()->device = elsewhere;
  CHECK_THROWS_WITH_AS(check({.key_lengths = lengths}),
                       doctest::Contains(("op: key_lengths is on " + to_string(elsewhere) + ", q on " + to_string(here)).c_str()), Error);
  lengths.storage()->device = here;
  CHECK_THROWS_WITH_AS(check({.dropout = 1.5}), doctest::Contains("dropout must be in [0, 1], got 1.5"), Error);
  CHECK_THROWS_WITH_AS(check({.scale = INFINITY}), doctest::Contains("the scale must be finite"), Error);
}
