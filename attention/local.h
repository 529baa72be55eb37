// Local attention: query i sees the keys j with |i - j| <= half = window / 2 (an even window spans window + 1 positions).
//
//   S_ij = scale q_i . k_j + bias_ij     A = softmax of each row over its window     y_i = sum of A_ij v_j over |i - j| <= half
//
// With N != M the last query is aligned with the last key: |i + (M - N) - j| <= half. Everything else (masks, causality, dropout, shared
// key/value heads, rows that see nothing, the backward) is as in dot_product.h, with sums over the window: the same kernels skip whatever
// lies outside of it, so time is O(N (2 half + 1) D) and memory O(N D), forward and backward.
// Compact weights are the band [B, H, N, 2 half + 1]: entry t of row i is key i + (M - N) - half + t, zero where there is no such key.
// In a causal call the band ends at the diagonal: [B, H, N, half + 1].
//
// I. Beltagy, M. Peters, A. Cohan: Longformer (2020), sliding windows; M. Luong et al.: local attention (EMNLP 2015).
#pragma once

#include "weft/attention/self_attention.h"

namespace weft {

struct LocalOptions {
  int64_t window = 128;
};

/// q [B, N, H, D], k [B, M, Hkv, D], v [B, M, Hkv, Dv] -> y [B, N, H, Dv] (or heads first, see AttendOptions). Weights,
/// on request, are [B, H, N, M], or the band described above when they are asked for compactly.
Attended local(const Tensor& q, const Tensor& k, const Tensor& v, const LocalOptions& local_options, const AttendOptions& options = {},
               Location at = Location::current());
/// The same, composed of ops (reference.h).
Attended local_reference(const Tensor& q, const Tensor& k, const Tensor& v, const LocalOptions& local_options,
                         const AttendOptions& options = {}, Location at = Location::current());

/// The module of the attentions package (window_size is window); 8 heads unless given. A floating mask of zeros and ones means the same as
/// a bool one.
struct LocalSelfAttention : SelfAttention {
  LocalSelfAttention() = default;
  explicit LocalSelfAttention(const SelfAttentionOptions& options, const LocalOptions& local_options = {});
};

}  // namespace weft
