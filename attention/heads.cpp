#include "weft/attention/heads.h"

#include <cmath>

#include "weft/autograd/ops.h"
#include "weft/core/kernels.h"

namespace weft {

Tensor as_heads(const Tensor& x, int64_t heads, Location at) {
  WEFT_CHECK(x.rank() == 3, "as_heads: expected [B, N, H * D], got {}", x);
  WEFT_CHECK(heads >= 1 && x.size(2) % heads == 0, "as_heads: the last axis of {} must be divisible by {} heads", x, heads);
  return reshape(x, {x.size(0), x.size(1), heads, x.size(2) / heads}, at);
}

Tensor split_heads(const Tensor& x, int64_t heads, Location at) {
  WEFT_CHECK(x.rank() == 3, "split_heads: expected [B, N, H * D], got {}", x);
  WEFT_CHECK(heads >= 1 && x.size(2) % heads == 0, "split_heads: the last axis of {} must be divisible by {} heads", x, heads);
  return permute(as_heads(x, heads, at), {0, 2, 1, 3}, at);  // [B, H, N, D]
}

Tensor merge_heads(const Tensor& x, Location at) {
  WEFT_CHECK(x.rank() == 4, "merge_heads: expected [B, H, N, D], got {}", x);
  return reshape(permute(x, {0, 2, 1, 3}, at), {x.size(0), x.size(2), x.size(1) * x.size(3)}, at);  // [B, N, H * D]
}

AttentionSizes check_qkv(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, AttentionLayout layout) {
  const bool heads_first = layout == AttentionLayout::bhnd;
  const char* axes = heads_first ? "[B, H, N, D]" : "[B, N, H, D]";
  WEFT_CHECK(q.defined() && k.defined() && v.defined(), "{}: q, k and v must be given", op);
  WEFT_CHECK(q.rank() == 4 && k.rank() == 4 && v.rank() == 4, "{}: expected q, k and v as {}, got {}, {} and {}", op, axes, q, k, v);
  WEFT_CHECK(q.dtype() == k.dtype() && k.dtype() == v.dtype() && q.device() == k.device() && k.device() == v.device(),
             "{}: q, k and v must share dtype and device, got {}, {} and {}", op, q, k, v);
  const int head_axis = heads_first ? 1 : 2, row_axis = heads_first ? 2 : 1;
  AttentionSizes sizes;
  sizes.batch = q.size(0);
  sizes.queries = q.size(row_axis);
  sizes.heads = q.size(head_axis);
  sizes.head_dim = q.size(3);
  sizes.keys = k.size(row_axis);
  sizes.kv_heads = k.size(head_axis);
  sizes.value_dim = v.size(3);
  WEFT_CHECK(k.size(0) == sizes.batch && v.size(0) == sizes.batch, "{}: batch sizes differ: q is {}, k {}, v {}", op, q, k, v);
  WEFT_CHECK(k.size(3) == sizes.head_dim, "{}: q and k need the same head_dim, got {} and {}", op, q, k);
  WEFT_CHECK(v.size(row_axis) == sizes.keys && v.size(head_axis) == sizes.kv_heads,
             "{}: k and v need the same keys and heads, got {} and {}", op, k, v);
  WEFT_CHECK(sizes.kv_heads >= 1 && sizes.heads % sizes.kv_heads == 0,
             "{}: the heads of q ({}) must be a multiple of those of k and v ({}): q is {} and k {}, read as {}; `layout` says how", op,
             sizes.heads, sizes.kv_heads, q, k, axes);
  return sizes;
}

void check_attend_options(const char* op, const AttentionSizes& sizes, const Tensor& q, const AttendOptions& options) {
  const Shape scores = sizes.scores();
  const auto check_device = [&](const char* what, const Tensor& x) {
    WEFT_CHECK(x.device() == q.device(), "{}: {} is on {}, q on {}; move it with to(x, device)", op, what, x.device(), q.device());
  };
  const auto check_scores = [&](const char* what, const Tensor& x) {
    WEFT_CHECK(broadcasts_to(x.shape(), scores), "{}: {} {} does not broadcast to the scores {} (batch, heads, queries, keys)", op, what,
               x.shape(), scores);
    check_device(what, x);
  };
  if (options.mask.defined()) {
    WEFT_CHECK(options.mask.dtype() == DType::boolean, "{}: mask must be bool (true = may attend), got {}; scores are added to by `bias`",
               op, options.mask);
    check_scores("mask", options.mask);
  }
  if (options.bias.defined()) {
    WEFT_CHECK(options.bias.dtype() == q.dtype(), "{}: bias must have the dtype of q ({}), got {}", op, q.dtype(), options.bias);
    check_scores("bias", options.bias);
  }
  if (options.dropout_multiplier.defined()) {
    WEFT_CHECK(options.dropout_multiplier.dtype() == q.dtype(), "{}: dropout_multiplier must have the dtype of q ({}), got {}", op,
               q.dtype(), options.dropout_multiplier);
    check_scores("dropout_multiplier", options.dropout_multiplier);
  }
  if (options.key_lengths.defined()) {
    WEFT_CHECK(options.key_lengths.dtype() == DType::int64 && options.key_lengths.shape() == Shape({sizes.batch}),
               "{}: key_lengths must be int64 [{}] (one for each batch element), got {}", op, sizes.batch, options.key_lengths);
    check_device("key_lengths", options.key_lengths);
    WEFT_LAUNCH(q, check_range(options.key_lengths, sizes.keys + 1,
                               format("{}: a length of {} in key_lengths[{}], but there are {} keys", op, "{}", "{}", sizes.keys)));
  }
  WEFT_CHECK(options.return_weights || !options.compact_weights, "{}: compact_weights needs return_weights", op);
  WEFT_CHECK(options.dropout >= 0 && options.dropout <= 1, "{}: dropout must be in [0, 1], got {}", op, options.dropout);
  WEFT_CHECK(!options.scale || std::isfinite(*options.scale), "{}: the scale must be finite, got {}", op, options.scale.value_or(0));
}

}  // namespace weft
