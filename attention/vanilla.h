// VanillaSelfAttention and MultiHeadSelfAttention: the exact mechanism in the frame of self_attention.h.
//
//   W = softmax(q k^T / (sqrt(D) T) + bias) masked, O = W v      O(N^2) time, O(N) memory (dot_product.h)
//
// Vanilla has one head of the whole width, and its weights are [B, N, N].
#pragma once

#include "weft/attention/self_attention.h"

namespace weft {

struct VanillaSelfAttention : SelfAttention {
  VanillaSelfAttention() = default;
  explicit VanillaSelfAttention(const SelfAttentionOptions& options);
};

/// `heads` must be given.
struct MultiHeadSelfAttention : SelfAttention {
  MultiHeadSelfAttention() = default;
  explicit MultiHeadSelfAttention(const SelfAttentionOptions& options);
};

}  // namespace weft
