// Exact softmax attention: every query against every key, by fused kernels that hold no N x M array.
//
// Forward, for every head, with dropout multipliers D (0 or 1 / (1 - p), 1 without dropout) and visible pairs only:
//
//   S_ij = scale q_i . k_j + bias_ij       lse_i = log sum_j e^S_ij       A_ij = e^(S_ij - lse_i)       y_i = sum_j D_ij A_ij v_j
//
// Backward, recomputing A from lse, with dW the gradient of the returned weights W = D A (if they were asked for):
//
//   delta_i = dy_i . y_i + sum_j dW_ij W_ij          dS_ij = A_ij (D_ij (dy_i . v_j + dW_ij) - delta_i)
//   dv_j = sum_i D_ij A_ij dy_i       dk_j = scale sum_i dS_ij q_i       dq_i = scale sum_j dS_ij k_j       dbias = dS
//
// Pair (i, j) is visible if mask, key_lengths and causality (j <= i + M - N) allow it and its bias is not -infinity. A query without a
// visible key has lse = +infinity: a zero row of y and no gradients. Query heads may share key/value heads; lengths may differ.
//
// 4 N M D operations forward and 10 N M D backward (half when causal), O(N + M) memory: y and lse are kept, nothing else. On CUDA the
// backward has 14 N M D: blocks that own queries and blocks that own keys each compute the scores again, so that no sum crosses blocks.
//
// T. Dao, D. Fu, S. Ermon, A. Rudra, C. Re: FlashAttention (NeurIPS 2022); T. Dao: FlashAttention-2 (ICLR 2024).
// M. Milakov, N. Gimelshein: Online normalizer calculation for softmax (2018).
#pragma once

#include "weft/attention/mechanism.h"

namespace weft {

/// q [B, N, H, D], k [B, M, Hkv, D], v [B, M, Hkv, Dv] -> y [B, N, H, Dv] (or heads first, see AttendOptions).
Attended dot_product(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options = {},
                     Location at = Location::current());
/// The same, composed of ops (reference.h).
Attended dot_product_reference(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options = {},
                               Location at = Location::current());

/// Query i sees keys i + (M - N) - left .. i + (M - N) + right only.
struct AttentionWindow {
  int64_t left, right;
};

/// dot_product over a window, in O(N (left + right + 1)): what mechanisms with a window are made of. Errors open with `op`.
Attended dot_product_window(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, AttentionWindow window,
                            const AttendOptions& options, Location at);

}  // namespace weft
