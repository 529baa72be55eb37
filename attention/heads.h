// Heads: splitting, merging, and the checks that every mechanism makes of q, k, v and its options.
#pragma once

#include "weft/attention/mechanism.h"

namespace weft {

/// x [B, N, H * D] -> [B, N, H, D], sharing memory: what mechanisms and fused kernels take.
Tensor as_heads(const Tensor& x, int64_t heads, Location at = Location::current());
/// x [B, N, H * D] -> [B, H, N, D], a copy: for mechanisms whose kernels want heads first.
Tensor split_heads(const Tensor& x, int64_t heads, Location at = Location::current());
/// x [B, H, N, D] -> [B, N, H * D], a copy.
Tensor merge_heads(const Tensor& x, Location at = Location::current());

/// Sizes of one attention problem.
struct AttentionSizes {
  int64_t batch = 0;
  int64_t queries = 0;   // N
  int64_t keys = 0;      // M
  int64_t heads = 0;     // of q
  int64_t kv_heads = 0;  // of k and v, divides heads
  int64_t head_dim = 0;  // D of q and k
  int64_t value_dim = 0;

  int64_t group() const { return heads / kv_heads; }
  /// [B, H, N, M].
  Shape scores() const { return {batch, heads, queries, keys}; }
};

/// Checks that q, k and v belong together (ranks, dtypes, devices, sizes) and reads their sizes; errors open with `op`.
AttentionSizes check_qkv(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, AttentionLayout layout);
/// Checks mask, bias, key_lengths (their values, too: a read on the host) and the dropout options against the scores.
void check_attend_options(const char* op, const AttentionSizes& sizes, const Tensor& q, const AttendOptions& options);

}  // namespace weft
