#include "weft/attention/mask.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <functional>

#include "testing.h"
#include "weft/core/random.h"

using namespace weft;

namespace {

// Does the mask hold visible(i, j) everywhere?
bool matches(const Tensor& mask, const std::function<bool(int64_t, int64_t)>& visible) {
  if (mask.rank() != 2 || mask.dtype() != DType::boolean) return false;
  for (int64_t i = 0; i < mask.size(0); ++i) {
    for (int64_t j = 0; j < mask.size(1); ++j) {
      if (testing::on_host<bool>(mask)[i * mask.size(1) + j] != visible(i, j)) return false;
    }
  }
  return true;
}

Tensor lengths_of(const std::vector<int64_t>& values) { return from_vector(values, {static_cast<int64_t>(values.size())}); }

}  // namespace

TEST_CASE("causal masks are aligned at the last key") {
  CHECK(matches(causal_mask(4), [](int64_t i, int64_t j) { return j <= i; }));
  CHECK(matches(causal_mask(3, 7), [](int64_t i, int64_t j) { return j <= i + 4; }));
  CHECK(matches(causal_mask(7, 3), [](int64_t i, int64_t j) { return j <= i - 4; }));  // the first rows see nothing
  CHECK(causal_mask(0).shape() == Shape({0, 0}));
  CHECK_THROWS_WITH_AS(causal_mask(-1), doctest::Contains("causal_mask: the lengths must not be negative"), Error);
}

TEST_CASE("padding masks") {
  const std::vector<int64_t> lengths = {3, 5, 2};
  CHECK(matches(padding_mask(lengths_of(lengths), 5), [&](int64_t b, int64_t j) { return j < lengths[static_cast<size_t>(b)]; }));
  CHECK(padding_mask(lengths_of({2, 4, 1})).shape() == Shape({3, 4}));
  CHECK(matches(padding_mask(lengths_of({9, 0, -2, 4}), 4), [](int64_t b, int64_t) { return b == 0 || b == 3; }));
  CHECK(padding_mask(lengths_of({}), 3).shape() == Shape({0, 3}));
  CHECK_THROWS_WITH_AS(padding_mask(lengths_of({})), doctest::Contains("without lengths max_len must be given"), Error);
  CHECK_THROWS_WITH_AS(padding_mask(zeros({3})), doctest::Contains("expected lengths int64 [B]"), Error);
  CHECK_THROWS_WITH_AS(padding_mask(lengths_of({1}), -1), doctest::Contains("max_len must not be negative"), Error);
}

TEST_CASE("local masks: an even window spans one position more") {
  CHECK(matches(local_mask(6, 3), [](int64_t i, int64_t j) { return std::abs(i - j) <= 1; }));
  CHECK(matches(local_mask(6, 2), [](int64_t i, int64_t j) { return std::abs(i - j) <= 1; }));
  CHECK(matches(local_mask(6, 0), [](int64_t i, int64_t j) { return i == j; }));
  CHECK(matches(local_mask(5, 30), [](int64_t, int64_t) { return true; }));
  CHECK(matches(window_mask(3, 5, 1, 2), [](int64_t i, int64_t j) { return i + 1 <= j && j <= i + 4; }));
  CHECK(matches(window_mask(4, 2, 1, 0), [](int64_t i, int64_t j) { return i - 3 <= j && j <= i - 2; }));
  CHECK_THROWS_WITH_AS(local_mask(5, -1), doctest::Contains("local_mask: length and window must not be negative"), Error);
}

TEST_CASE("dilated and block masks") {
  CHECK(matches(dilated_mask(8, 2), [](int64_t i, int64_t j) { return (i + j) % 2 == 0; }));
  CHECK(matches(dilated_mask(5, 9), [](int64_t i, int64_t j) { return i == j; }));
  CHECK(matches(block_mask(10, 4), [](int64_t i, int64_t j) { return i / 4 == j / 4; }));
  CHECK_THROWS_WITH_AS(dilated_mask(5, 0), doctest::Contains("the rate at least 1"), Error);
  CHECK_THROWS_WITH_AS(block_mask(5, 0), doctest::Contains("the block at least 1"), Error);
}

TEST_CASE("combine_masks: and, of equal shapes") {
  const Tensor both = combine_masks({causal_mask(4), local_mask(4, 2)});
  CHECK(matches(both, [](int64_t i, int64_t j) { return j <= i && i - j <= 1; }));
  const Tensor all = combine_masks({local_mask(4, 30), causal_mask(4), local_mask(4, 0)});
  CHECK(matches(all, [](int64_t i, int64_t j) { return i == j; }));
  Tensor one = causal_mask(3);
  const Tensor copy = combine_masks({one});
  CHECK(copy.raw() != one.raw());
  CHECK_THROWS_WITH_AS(combine_masks({}), doctest::Contains("At least one mask must be provided"), Error);
  CHECK_THROWS_WITH_AS(combine_masks({causal_mask(3), causal_mask(4)}), doctest::Contains("Mask shape mismatch: [3, 3] and [4, 4]"), Error);
  CHECK_THROWS_WITH_AS(combine_masks({zeros({3, 3})}), doctest::Contains("masks must be bool"), Error);
}

TEST_CASE("expand_for_heads: exact shapes of rank 2, 3 and 4") {
  const Tensor two = causal_mask(4);
  const Tensor full = expand_for_heads(two, 2, 3, 4);
  CHECK(full.shape() == Shape({2, 3, 4, 4}));
  CHECK(full.dtype() == DType::boolean);
  for (int64_t copy = 0; copy < 6; ++copy) {
    for (int64_t e = 0; e < 16; ++e) CHECK(testing::on_host<bool>(full)[16 * copy + e] == testing::on_host<bool>(two)[e]);
  }
  const Tensor three = rand({2, 4, 4});
  const Tensor from_three = expand_for_heads(three, 2, 3, 4);
  CHECK(from_three.dtype() == DType::float32);
  for (int64_t e = 0; e < 96; ++e) CHECK(testing::on_host<float>(from_three)[e] == testing::on_host<float>(three)[e / 48 * 16 + e % 16]);
  CHECK(expand_for_heads(full, 2, 3, 4).raw() == full.raw());
  CHECK_FALSE(expand_for_heads({}, 2, 3, 4).defined());
  CHECK_THROWS_WITH_AS(expand_for_heads(causal_mask(3), 2, 3, 4), doctest::Contains("2D mask shape must be [4, 4], got [3, 3]"), Error);
  CHECK_THROWS_WITH_AS(expand_for_heads(zeros({3, 4, 4}), 2, 3, 4), doctest::Contains("3D mask shape must be [2, 4, 4], got [3, 4, 4]"),
                       Error);
  CHECK_THROWS_WITH_AS(expand_for_heads(zeros({2, 2, 4, 4}), 2, 3, 4), doctest::Contains("4D mask shape must be [2, 3, 4, 4]"), Error);
  CHECK_THROWS_WITH_AS(expand_for_heads(zeros({1, 1, 2, 4, 4}), 2, 3, 4), doctest::Contains("Unsupported mask dimensions"), Error);
}
