// MultiHeadAttention: projections around any attention mechanism, with grouped key/value heads, rotary positions, cross attention and a
// key/value cache.
//
//   q = x Wq, k = c Wk, v = c Wv (c: the context, or x itself), split into heads; y = merge(attend(q, k, v)) Wo
//
// No copy is made to split or merge heads: mechanisms read [B, N, H, D], which is what a projection leaves.
#pragma once

#include <string>

#include "weft/attention/kv_cache.h"
#include "weft/attention/mechanism.h"
#include "weft/nn/dropout.h"
#include "weft/nn/linear.h"

namespace weft {

struct MultiHeadAttentionOptions {
  int64_t dim = 0;
  int64_t heads = 8;
  /// Heads of k and v, a divisor of heads (grouped or multi query attention); 0: heads.
  int64_t kv_heads = 0;
  /// 0: dim / heads.
  int64_t head_dim = 0;
  /// Width of the context in cross attention; 0: dim.
  int64_t context_dim = 0;
  /// One weight to_qkv instead of to_q, to_k, to_v (self attention only).
  bool packed = false;
  /// Biases of the projections of q, k and v, and of the output.
  bool bias = false;
  bool out_bias = false;
  /// On the attention weights.
  double dropout = 0;
  bool causal = false;
  bool rope = false;
  double rope_base = 10000;
  /// Mechanism spec: "dot_product", "local:window=128", ...
  std::string attention = "dot_product";
  /// Longest sequence, for mechanisms whose parameters depend on it; 0: unknown.
  int64_t max_len = 0;
  Init init = Init::fan_in;
  double std = 0.02;
};

/// What one call may bring along.
struct AttentionInputs {
  /// [B, M, context_dim]: attend to this instead of to x.
  Tensor context = {};
  /// bool, true = may attend, broadcasting to [B, H, N, M].
  Tensor mask = {};
  /// Added to the scores, broadcasting to [B, H, N, M].
  Tensor bias = {};
  /// int64 [B]: keys at and beyond this position are padding.
  Tensor key_lengths = {};
  /// Generation: x continues the sequence in the cache (M counts all of it) and is added to it.
  KeyValueCache* cache = nullptr;
  bool return_weights = false;
};

struct MultiHeadAttention {
  Linear to_qkv;            // packed
  Linear to_q, to_k, to_v;  // or apart
  Mechanism mechanism;
  Linear to_out;
  Dropout dropout;
  int64_t heads = 1, kv_heads = 1, head_dim = 0;
  bool packed = false, causal = false, rope = false;
  double rope_base = 10000;

  MultiHeadAttention() = default;
  explicit MultiHeadAttention(const MultiHeadAttentionOptions& options);

  /// x [B, N, dim] -> [B, N, dim].
  Tensor operator()(const Tensor& x, const AttentionInputs& inputs = {}, Location at = Location::current()) const {
    return attend(x, inputs, at).y;
  }
  /// The same with the attention weights [B, H, N, M], if asked for.
  Attended attend(const Tensor& x, const AttentionInputs& inputs = {}, Location at = Location::current()) const;

  void visit(auto&& f) {
    f("to_qkv", to_qkv);
    f("to_q", to_q);
    f("to_k", to_k);
    f("to_v", to_v);
    f("mechanism", mechanism);
    f("to_out", to_out);
    f("dropout", dropout);
  }
};

}  // namespace weft
