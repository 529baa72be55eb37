#include "weft/attention/scaled_dot_product.h"

#include "weft/attention/dot_product.h"
#include "weft/autograd/ops.h"

namespace weft {
namespace {

const char* const op = "scaled_dot_product_attention";

Shape leading(const Tensor& x) { return Shape(std::span<const int64_t>(x.shape().begin(), static_cast<size_t>(x.rank() - 2))); }

std::vector<int64_t> with(const Shape& lead, int64_t rows, int64_t columns) {
  std::vector<int64_t> sizes(lead.begin(), lead.end());
  sizes.push_back(rows);
  sizes.push_back(columns);
  return sizes;
}

// x [.., R, C] -> [1, product of lead, R, C].
Tensor flat(const Tensor& x, const Shape& lead, Location at) {
  Tensor full = x;
  if (leading(x) != lead) full = broadcast_to(x, Shape(with(lead, x.size(-2), x.size(-1))), at);
  return reshape(full, {1, lead.numel(), x.size(-2), x.size(-1)}, at);
}

// A mask or bias: axes in front are broadcast only if it has them, the last two stay as they are.
Tensor flat_pairs(const char* what, const Tensor& x, const Shape& lead, const Shape& scores, Location at) {
  if (!x.defined()) return x;
  WEFT_CHECK(x.rank() <= scores.rank(), "{}: {} {} does not broadcast to the scores {}", op, what, x.shape(), scores);
  broadcast_shapes(op, x.shape(), scores);
  return x.rank() <= 2 ? x : flat(x, lead, at);
}

}  // namespace

Attended scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options, Location at) {
  WEFT_CHECK(q.defined() && k.defined() && v.defined() && q.rank() >= 2 && k.rank() >= 2 && v.rank() >= 2,
             "{}: expected q [.., N, D], k [.., M, D] and v [.., M, Dv], got {}, {} and {}", op, q, k, v);
  WEFT_CHECK(!options.key_lengths.defined(), "{}: key_lengths needs a batch axis; use dot_product, or a mask", op);
  const Shape lead = broadcast_shapes(op, broadcast_shapes(op, leading(q), leading(k)), leading(v));
  const int64_t n = q.size(-2), m = k.size(-2);
  const Shape scores(with(lead, n, m));

  AttendOptions inner = options;
  inner.layout = AttentionLayout::bhnd;
  inner.mask = flat_pairs("mask", options.mask, lead, scores, at);
  inner.bias = flat_pairs("bias", options.bias, lead, scores, at);
  inner.dropout_multiplier = flat_pairs("dropout_multiplier", options.dropout_multiplier, lead, scores, at);
  Attended result;
  if (lead.numel() == leading(q).numel() && leading(k).numel() == 1 && leading(v).numel() == 1) {
    // Keys shared by everything: one key/value head, no copy.
    result = dot_product(flat(q, lead, at), reshape(k, {1, 1, m, k.size(-1)}, at), reshape(v, {1, 1, m, v.size(-1)}, at), inner, at);
  } else {
    result = dot_product(flat(q, lead, at), flat(k, lead, at), flat(v, lead, at), inner, at);
  }
  result.y = reshape(result.y, with(lead, n, v.size(-1)), at);
  if (result.weights.defined()) result.weights = reshape(result.weights, with(lead, n, m), at);
  return result;
}

}  // namespace weft
