#include "weft/attention/mask.h"

#include <algorithm>

#include "weft/autograd/ops.h"

namespace weft {
namespace {

// bool [rows, columns] with visible(i, j) in row i, column j.
template <class F>
Tensor build(int64_t rows, int64_t columns, Device device, F visible) {
  Tensor host = empty({rows, columns}, {.dtype = DType::boolean, .device = Device::cpu()});
  bool* out = host.data<bool>();
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) *out++ = visible(i, j);
  }
  return to(host, device);
}

}  // namespace

Tensor causal_mask(int64_t n, std::optional<int64_t> m, Device device) {
  const int64_t keys = m.value_or(n);
  WEFT_CHECK(n >= 0 && keys >= 0, "causal_mask: the lengths must not be negative, got {} and {}", n, keys);
  return tril_mask(n, keys, keys - n, device);
}

Tensor padding_mask(const Tensor& lengths, std::optional<int64_t> max_len) {
  WEFT_CHECK(lengths.defined() && lengths.dtype() == DType::int64 && lengths.rank() == 1,
             "padding_mask: expected lengths int64 [B], got {}", lengths);
  WEFT_CHECK(max_len || lengths.numel() > 0, "padding_mask: without lengths max_len must be given");
  WEFT_CHECK(max_len.value_or(0) >= 0, "padding_mask: max_len must not be negative, got {}", max_len.value_or(0));
  int64_t columns = max_len.value_or(0);
  if (!max_len) {  // waits for the device
    for (int64_t length : lengths.to_vector<int64_t>()) columns = std::max(columns, length);
  }
  const Tensor places = arange(columns, {.dtype = DType::int64, .device = lengths.device()});
  return less(places, lengths.viewed_as({lengths.size(0), 1}));
}

Tensor local_mask(int64_t n, int64_t window, Device device) {
  WEFT_CHECK(n >= 0 && window >= 0, "local_mask: length and window must not be negative, got {} and {}", n, window);
  return window_mask(n, n, window / 2, window / 2, device);
}

Tensor window_mask(int64_t n, int64_t m, int64_t left, int64_t right, Device device) {
  return logical_and(triu_mask(n, m, m - n - left, device), tril_mask(n, m, m - n + right, device));
}

Tensor dilated_mask(int64_t n, int64_t rate, Device device) {
  WEFT_CHECK(n >= 0 && rate >= 1, "dilated_mask: the length must not be negative and the rate at least 1, got {} and {}", n, rate);
  return build(n, n, device, [=](int64_t i, int64_t j) { return (i - j) % rate == 0; });
}

Tensor block_mask(int64_t n, int64_t block, Device device) {
  WEFT_CHECK(n >= 0 && block >= 1, "block_mask: the length must not be negative and the block at least 1, got {} and {}", n, block);
  return build(n, n, device, [=](int64_t i, int64_t j) { return i / block == j / block; });
}

Tensor combine_masks(const std::vector<Tensor>& masks) {
  WEFT_CHECK(!masks.empty(), "combine_masks: At least one mask must be provided");
  for (const Tensor& mask : masks) {
    WEFT_CHECK(mask.defined() && mask.dtype() == DType::boolean, "combine_masks: masks must be bool (true = may attend), got {}", mask);
    WEFT_CHECK(mask.shape() == masks[0].shape(), "combine_masks: Mask shape mismatch: {} and {}", masks[0].shape(), mask.shape());
  }
  Tensor all = clone(masks[0]);
  for (size_t i = 1; i < masks.size(); ++i) all = logical_and(all, masks[i]);
  return all;
}

Tensor expand_for_heads(const Tensor& mask, int64_t batch, int64_t heads, int64_t n) {
  if (!mask.defined()) return mask;
  const Shape full{batch, heads, n, n};
  switch (mask.rank()) {
    case 2:
      WEFT_CHECK(mask.shape() == Shape({n, n}), "expand_for_heads: 2D mask shape must be {}, got {}", Shape({n, n}), mask.shape());
      return broadcast_to(mask, full);
    case 3:
      WEFT_CHECK(mask.shape() == Shape({batch, n, n}), "expand_for_heads: 3D mask shape must be {}, got {}", Shape({batch, n, n}),
                 mask.shape());
      return broadcast_to(reshape(mask, {batch, 1, n, n}), full);
    case 4:
      WEFT_CHECK(mask.shape() == full, "expand_for_heads: 4D mask shape must be {}, got {}", full, mask.shape());
      return mask;
    default:
      fail("expand_for_heads: Unsupported mask dimensions: expected rank 2, 3 or 4, got {}", mask.shape());
  }
}

}  // namespace weft
