#include "weft/attention/self_attention.h"

#include <algorithm>
#include <cmath>

#include "weft/attention/heads.h"
#include "weft/autograd/ops.h"
#include "weft/nn/rotary.h"

namespace weft {
namespace {

// A mask or bias of rank 3 is [B, N, N]: it gets an axis for the heads. Other ranks broadcast as they are.
Tensor with_head_axis(const Tensor& x) { return x.defined() && x.rank() == 3 ? reshape(x, {x.size(0), 1, x.size(1), x.size(2)}) : x; }

bool only_zeros_and_ones(const Tensor& x) {
  return dispatch_float(x.dtype(), "mask", [&]<class T>() {
    const std::vector<T> values = x.to_vector<T>();
    return std::all_of(values.begin(), values.end(), [](T value) { return value == T(0) || value == T(1); });
  });
}

bool is_temperature(double t) { return std::isfinite(t) && t != 0; }

}  // namespace

SelfAttention::SelfAttention(const SelfAttentionOptions& options, const SelfAttentionKind& kind, AttentionCore core)
    : dropout({.p = options.dropout}), temperature(options.temperature), options_(options), kind_(kind), core_(std::move(core)) {
  const int64_t dim = options.dim;
  const int64_t heads = options.heads.value_or(kind.heads);
  const int64_t kv_heads = kind.kv_heads == 0 ? heads : kind.kv_heads;
  const int64_t input_dim = options.input_dim == 0 ? dim : options.input_dim;
  WEFT_CHECK(dim >= 1 && input_dim >= 1 && heads >= 1 && kv_heads >= 1,
             "{}: dim, input_dim and the head counts must be at least 1, got {}, {}, {} and {}", kind.name, dim, input_dim, heads,
             kv_heads);
  WEFT_CHECK(dim % heads == 0, "{}: d_model ({}) must be divisible by {} ({})", kind.name, dim, kind.heads_name, heads);
  WEFT_CHECK(heads % kv_heads == 0, "{}: {} ({}) must be divisible by num_kv_heads ({})", kind.name, kind.heads_name, heads, kv_heads);
  WEFT_CHECK(is_temperature(temperature), "{}: the temperature must be finite and not zero, got {}", kind.name, temperature);
  WEFT_CHECK(!options.rope || dim / heads % 2 == 0, "{}: rope turns pairs of features, but the width of a head is odd, {}", kind.name,
             dim / heads);
  options_.input_dim = input_dim;
  options_.heads = heads;

  const auto projection = [&](int64_t in, int64_t out) {
    return Linear({.in = in, .out = out, .bias = options.bias, .init = Init::xavier});
  };
  w_q = projection(input_dim, dim);
  w_k = projection(input_dim, kv_heads * (dim / heads));
  w_v = projection(input_dim, kv_heads * (dim / heads));
  w_o = projection(dim, dim);
}

AttendOptions SelfAttention::attend_options(const Tensor& x, const SelfAttentionCall& call) const {
  const auto check_rank = [&](const char* what, const Tensor& mask) {
    WEFT_CHECK(!mask.defined() || (mask.rank() >= kind_.min_mask_rank && mask.rank() <= kind_.max_mask_rank),
               "{}: the {} must have rank {} to {}, got {}", kind_.name, what, kind_.min_mask_rank, kind_.max_mask_rank, mask);
  };
  check_rank("mask", call.mask);
  check_rank("bias", call.bias);
  WEFT_CHECK(is_temperature(temperature), "{}: the temperature must be finite and not zero, got {}", kind_.name, temperature);

  AttendOptions options;
  options.causal = call.causal;
  options.mask = with_head_axis(call.mask);
  if (kind_.floating_mask && options.mask.defined() && is_float(options.mask.dtype())) {
    WEFT_CHECK(only_zeros_and_ones(options.mask), "{}: a floating mask may hold 0 and 1 only (blocked, visible); additive masks are `bias`",
               kind_.name);
    options.mask = not_equal(options.mask, zeros_like(options.mask));
  }
  options.bias = with_head_axis(call.bias);
  options.key_lengths = call.key_lengths;
  options.scale = 1 / (std::sqrt(static_cast<double>(head_dim())) * temperature);
  if (dropout.training && call.dropout_multiplier.defined()) {
    options.dropout_multiplier = with_head_axis(call.dropout_multiplier);
  } else if (dropout.active()) {
    options.dropout = dropout.p;
    options.key = default_generator().next();
  }
  options.return_weights = call.weights != Weights::none;
  options.compact_weights = call.weights == Weights::compact;
  WEFT_CHECK(call.weights != Weights::compact || kind_.has_compact_weights, "{}: there is no compact layout of the weights; ask for dense",
             kind_.name);
  WEFT_CHECK(x.rank() == 3 && x.size(2) == options_.input_dim, "{}: expected x of [B, N, {}], got {}", kind_.name, options_.input_dim, x);
  return options;
}

Attended SelfAttention::operator()(const Tensor& x, const SelfAttentionCall& call, Location at) const {
  WEFT_CHECK(core_ != nullptr, "SelfAttention: empty; build it with options, a kind and a core");
  const AttendOptions options = attend_options(x, call);
  const int64_t heads = *options_.heads, kv_heads = w_k.weight.size(0) / head_dim();
  Tensor q = as_heads(w_q(x, at), heads, at), k = as_heads(w_k(x, at), kv_heads, at);  // [B, N, H, D], [B, N, Hkv, D]
  const Tensor v = as_heads(w_v(x, at), kv_heads, at);
  if (options_.rope) {
    q = rotary(q, {}, at);
    k = rotary(k, {}, at);
  }
  Attended result = core_(q, k, v, options, at);
  result.y = w_o(reshape(result.y, {x.size(0), x.size(1), options_.dim}, at), at);

  if (stored_.defined()) stored_ = {};
  if (call.weights == Weights::dense || call.weights == Weights::head_mean) {
    const Tensor head_mean = mean(call.weights == Weights::dense ? detach(result.weights) : result.weights, {1}, false, at);
    stored_ = detach(head_mean);
    if (call.weights == Weights::head_mean) result.weights = head_mean;
    if (call.weights == Weights::dense && !kind_.head_axis) result.weights = reshape(result.weights, {x.size(0), x.size(1), x.size(1)}, at);
  }
  return result;
}

Tensor SelfAttention::attention_weights() const {
  WEFT_CHECK(stored_.defined(),
             "{}: the latest call computed no attention weights; ask for them with weights = Weights::head_mean or dense", kind_.name);
  return stored_;
}

}  // namespace weft
