#include "weft/attention/reference.h"

#include <cmath>
#include <limits>

#include "weft/attention/heads.h"
#include "weft/attention/mask.h"
#include "weft/autograd/ops.h"

namespace weft {
namespace {

Tensor both(const Tensor& a, const Tensor& b) {
  if (!a.defined()) return b;
  return b.defined() ? logical_and(a, b) : a;
}

// Everything that blocks pairs in one bool tensor; undefined if nothing does. A bias of -infinity blocks like a mask.
Tensor visible_pairs(const AttentionSizes& sizes, const Tensor& pattern, const AttendOptions& options, Device device) {
  Tensor visible = both(pattern, options.mask);
  if (options.causal) visible = both(visible, tril_mask(sizes.queries, sizes.keys, sizes.keys - sizes.queries, device));
  if (options.key_lengths.defined()) {
    visible = both(visible, reshape(padding_mask(options.key_lengths, sizes.keys), {sizes.batch, 1, 1, sizes.keys}));
  }
  if (options.bias.defined()) {
    const Tensor nothing = full({}, -std::numeric_limits<double>::infinity(), {.dtype = options.bias.dtype(), .device = device});
    visible = both(visible, not_equal(detach(options.bias), nothing));
  }
  return visible;
}

}  // namespace

Attended attention_reference(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& pattern,
                             const AttendOptions& options, Location at) {
  const AttentionSizes sizes = check_qkv(op, q, k, v, options.layout);
  check_attend_options(op, sizes, q, options);
  const bool heads_first = options.layout == AttentionLayout::bhnd;
  // Query heads that share a key/value head become an axis of their own: [B, Hkv, G, N, D] against [B, Hkv, 1, M, D].
  const auto grouped = [&](const Tensor& x, int64_t group) {
    const Tensor first = heads_first ? x : permute(x, {0, 2, 1, 3}, at);
    return reshape(first, {first.size(0), first.size(1) / group, group, first.size(2), first.size(3)}, at);
  };
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(sizes.head_dim)));
  const Tensor products = matmul(grouped(q, sizes.group()), grouped(k, 1), {.transpose_b = true, .alpha = scale}, at);
  Tensor scores = reshape(products, {sizes.batch, sizes.heads, sizes.queries, sizes.keys}, at);  // [B, H, N, M]
  if (options.bias.defined()) scores = add(scores, options.bias, at);

  Attended result;
  Tensor weights = softmax(scores, -1, visible_pairs(sizes, pattern, options, q.device()), at);
  if (options.dropout_multiplier.defined()) {
    weights = mul(weights, options.dropout_multiplier, at);
  } else if (options.dropout > 0) {
    weights = dropout(weights, options.dropout, options.key, at);
  }
  const Tensor shared = reshape(weights, {sizes.batch, sizes.kv_heads, sizes.group(), sizes.queries, sizes.keys}, at);
  const Tensor y = reshape(matmul(shared, grouped(v, 1), {}, at), {sizes.batch, sizes.heads, sizes.queries, sizes.value_dim}, at);
  result.y = heads_first ? y : permute(y, {0, 2, 1, 3}, at);
  if (options.return_weights) result.weights = weights;
  return result;
}

}  // namespace weft
