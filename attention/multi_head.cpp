#include "weft/attention/multi_head.h"

#include <cmath>

#include "weft/attention/heads.h"
#include "weft/nn/rotary.h"

namespace weft {
namespace {

// Row b of something that broadcasts over [B, H, N, M].
Tensor batch_row(const Tensor& x, int64_t b) { return x.defined() && x.rank() == 4 && x.size(0) > 1 ? detach(x).rows(b, b + 1) : x; }

// Attention of new queries to everything in the cache. Each batch row's keys lie densely in the cache, so rows go one by one without a
// copy.
Attended attend_cached(const Mechanism& mechanism, const Tensor& q, const KeyValueCache& cache, const AttendOptions& options, Location at) {
  Attended all;
  std::vector<Tensor> ys, weights;
  for (int64_t b = 0; b < q.size(0); ++b) {
    AttendOptions row = options;
    row.mask = batch_row(options.mask, b);
    row.bias = batch_row(options.bias, b);
    if (row.key_lengths.defined()) row.key_lengths = options.key_lengths.rows(b, b + 1);
    const Attended one = mechanism(detach(q).rows(b, b + 1), cache.keys(b), cache.values(b), row, at);
    ys.push_back(one.y);
    if (options.return_weights) weights.push_back(one.weights);
  }
  all.y = ys.size() == 1 ? ys[0] : concat(ys, 0, at);
  if (options.return_weights) all.weights = weights.size() == 1 ? weights[0] : concat(weights, 0, at);
  return all;
}

}  // namespace

MultiHeadAttention::MultiHeadAttention(const MultiHeadAttentionOptions& options)
    : dropout({.p = options.dropout}),
      heads(options.heads),
      kv_heads(options.kv_heads == 0 ? options.heads : options.kv_heads),
      packed(options.packed),
      causal(options.causal),
      rope(options.rope),
      rope_base(options.rope_base) {
  const int64_t dim = options.dim, context_dim = options.context_dim == 0 ? dim : options.context_dim;
  WEFT_CHECK(dim >= 1 && heads >= 1 && kv_heads >= 1 && context_dim >= 1,
             "MultiHeadAttention: dim, heads, kv_heads and context_dim must be at least 1, got {}, {}, {} and {}", dim, heads, kv_heads,
             context_dim);
  WEFT_CHECK(options.head_dim >= 0 && options.max_len >= 0, "MultiHeadAttention: head_dim and max_len must not be negative, got {} and {}",
             options.head_dim, options.max_len);
  WEFT_CHECK(options.head_dim > 0 || dim % heads == 0,
             "MultiHeadAttention: dim ({}) must be divisible by heads ({}), or head_dim must be given", dim, heads);
  head_dim = options.head_dim > 0 ? options.head_dim : dim / heads;
  WEFT_CHECK(heads % kv_heads == 0, "MultiHeadAttention: heads ({}) must be divisible by kv_heads ({})", heads, kv_heads);
  WEFT_CHECK(!rope || head_dim % 2 == 0, "MultiHeadAttention: rope needs an even head_dim, got {}", head_dim);
  WEFT_CHECK(!rope || (std::isfinite(rope_base) && rope_base > 0), "MultiHeadAttention: rope_base must be positive and finite, got {}",
             rope_base);
  WEFT_CHECK(!packed || context_dim == dim,
             "MultiHeadAttention: packed projections serve self attention only, but context_dim is {} and dim {}", context_dim, dim);

  const int64_t q_width = heads * head_dim, kv_width = kv_heads * head_dim;
  const auto projection = [&](int64_t in, int64_t out, bool bias) {
    return Linear({.in = in, .out = out, .bias = bias, .init = options.init, .std = options.std});
  };
  if (packed) {
    to_qkv = projection(dim, q_width + 2 * kv_width, options.bias);
  } else {
    to_q = projection(dim, q_width, options.bias);
    to_k = projection(context_dim, kv_width, options.bias);
    to_v = projection(context_dim, kv_width, options.bias);
  }
  to_out = projection(q_width, dim, options.out_bias);
  mechanism = make_mechanism(options.attention,
                             {.heads = heads, .kv_heads = kv_heads, .head_dim = head_dim, .max_len = options.max_len, .causal = causal});
}

Attended MultiHeadAttention::attend(const Tensor& x, const AttentionInputs& inputs, Location at) const {
  const Tensor& weight = packed ? to_qkv.weight : to_q.weight;
  WEFT_CHECK(weight.defined(), "MultiHeadAttention: it has no weights; build it with MultiHeadAttentionOptions");
  WEFT_CHECK(x.rank() == 3 && x.size(2) == weight.size(1), "MultiHeadAttention: expected x of [B, N, {}], got {}", weight.size(1), x);
  const bool cross = inputs.context.defined();
  const Tensor& context = cross ? inputs.context : x;
  WEFT_CHECK(!cross || !packed, "MultiHeadAttention: packed projections take no context; build it with packed = false");
  const int64_t context_dim = packed ? x.size(2) : to_k.weight.size(1);
  WEFT_CHECK(context.rank() == 3 && context.size(0) == x.size(0) && context.size(2) == context_dim,
             "MultiHeadAttention: expected a context of [{}, M, {}], got {}{}", x.size(0), context_dim, context,
             cross ? "" : ", x itself: give a context, or build it with context_dim = dim");
  WEFT_CHECK(!cross || !rope, "MultiHeadAttention: rotary positions do not relate x to a context; build it with rope = false");
  WEFT_CHECK(!cross || inputs.cache == nullptr, "MultiHeadAttention: a cache continues x itself, it cannot be used with a context");

  Tensor q, k, v;
  if (packed) {
    const std::vector<Tensor> qkv = to_qkv.blocks(x, {heads * head_dim, kv_heads * head_dim, kv_heads * head_dim}, at);
    q = qkv[0], k = qkv[1], v = qkv[2];
  } else {
    q = to_q(x, at), k = to_k(context, at), v = to_v(context, at);
  }
  q = as_heads(q, heads, at);     // [B, N, H, D]
  k = as_heads(k, kv_heads, at);  // [B, M, Hkv, D]
  v = as_heads(v, kv_heads, at);
  const int64_t seen = inputs.cache != nullptr ? inputs.cache->length() : 0;
  if (rope) {
    q = rotary(q, {.offset = seen, .base = rope_base}, at);
    k = rotary(k, {.offset = seen, .base = rope_base}, at);
  }
  if (inputs.cache != nullptr) inputs.cache->append(k, v);

  AttendOptions options{.causal = causal,
                        .mask = inputs.mask,
                        .bias = inputs.bias,
                        .key_lengths = inputs.key_lengths,
                        .return_weights = inputs.return_weights};
  if (dropout.active()) {
    options.dropout = dropout.p;
    options.key = default_generator().next();
  }
  Attended result = seen > 0 && x.size(0) > 0 ? attend_cached(mechanism, q, *inputs.cache, options, at) : mechanism(q, k, v, options, at);
  result.y = to_out(reshape(result.y, {x.size(0), x.size(1), heads * head_dim}, at), at);
  return result;
}

}  // namespace weft
