// Every attention kernel, declared once for both devices (attention/cpu/NAME.cpp, attention/cuda/NAME.cu). Conventions: core/kernels.h.
#pragma once

#include "weft/attention/mechanism.h"
#include "weft/core/kernels.h"

namespace weft {

// ---- dot_product: exact softmax attention in linear memory, over all keys or a window of them ------------------------------------

/// What decides the weights besides q, k and v. Query i sees key j iff i + (M - N) - left <= j <= i + (M - N) + right, j is below the
/// batch's key length, and the mask allows it.
struct AttentionScope {
  double scale = 1;
  /// Wide enough for every key unless set; causal is right = 0.
  int64_t left = unlimited, right = unlimited;
  Tensor mask;                // ? bool, broadcasting to [B, H, N, M]
  Tensor bias;                // ? broadcasting to [B, H, N, M]
  Tensor key_lengths;         // ? int64 [B]
  double dropout = 0;         // weight (b, h, i, j) is dropped by word ((b * H + h) * N + i) * M + j of the stream `key`
  RandomKey key;              //
  Tensor dropout_multiplier;  // ? broadcasting to [B, H, N, M], in place of the stream
  AttentionLayout layout = AttentionLayout::bnhd;
  /// Weights tensors hold only the window, [B, H, N, left + 1 + right]: entry t of row i is key i + (M - N) - left + t.
  bool compact = false;

  static constexpr int64_t unlimited = int64_t{1} << 40;
};

/// o = weights . v and lse [B, H, N], the row log-sum-exp of the scores (+inf where a query sees no key: its row of o is 0). lse and delta
/// are float32 for half types.
/// q [B, N, H, D], k [B, M, Hkv, D], v [B, M, Hkv, Dv], o [B, N, H, Dv] (bnhd). Head h reads key/value head h / (H / Hkv).
WEFT_KERNEL(void dot_product(Tensor& o, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionScope& scope))
/// The weights after dropout, [B, H, N, M] (or compact), recomputed from lse.
WEFT_KERNEL(void dot_product_weights(Tensor& weights, const Tensor& q, const Tensor& k, const Tensor& lse, const AttentionScope& scope))
/// delta [B, H, N] = dout . o (+ dweights . weights, if a gradient of the weights is given): what the softmax's backward subtracts.
WEFT_KERNEL(void dot_product_delta(Tensor& delta, const Tensor& dout, const Tensor& o, const Tensor& dweights /*?*/, const Tensor& q,
                                   const Tensor& k, const Tensor& lse, const AttentionScope& scope))
/// All gradients in one pass over the tiles. lse and delta may come from attention over more keys than these: parts of one softmax
/// (a window and gathered global keys) each run this with the statistics of the whole.
WEFT_KERNEL(void dot_product_backward(Tensor& dq, Tensor& dk, Tensor& dv, Tensor& dbias /*?*/, const Tensor& dout,
                                      const Tensor& dweights /*?*/, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& lse,
                                      const Tensor& delta, const AttentionScope& scope))

}  // namespace weft
