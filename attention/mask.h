// Mask builders: bool tensors, true = may attend. Mechanisms that know their own pattern (causal, window, blocks) need none of these.
#pragma once

#include <optional>
#include <vector>

#include "weft/core/tensor.h"

namespace weft {

/// [n, m]: key j is visible to query i iff j <= i + (m - n): the last query sees everything. m unset: n.
Tensor causal_mask(int64_t n, std::optional<int64_t> m = {}, Device device = default_device());
/// lengths int64 [B] -> [B, max_len]: true below the length; lengths outside [0, max_len] are cut. max_len unset: the longest. To mask keys
/// in attention, insert axes: [B, 1, 1, M].
Tensor padding_mask(const Tensor& lengths, std::optional<int64_t> max_len = {});
/// [n, n]: |i - j| <= window / 2, so an even window spans window + 1 positions.
Tensor local_mask(int64_t n, int64_t window, Device device = default_device());
/// [n, m]: query i sees key j iff i + (m - n) - left <= j <= i + (m - n) + right.
Tensor window_mask(int64_t n, int64_t m, int64_t left, int64_t right, Device device = default_device());
/// [n, n]: i - j is a multiple of rate.
Tensor dilated_mask(int64_t n, int64_t rate, Device device = default_device());
/// [n, n]: i and j are in the same block of `block` positions; the last may be short.
Tensor block_mask(int64_t n, int64_t block, Device device = default_device());
/// Elementwise and of one or more masks of the same shape.
Tensor combine_masks(const std::vector<Tensor>& masks);
/// [n, n], [B, n, n] or [B, H, n, n], bool or floating point, exactly -> [B, H, n, n], a copy. An undefined mask stays undefined.
Tensor expand_for_heads(const Tensor& mask, int64_t batch, int64_t heads, int64_t n);

}  // namespace weft
