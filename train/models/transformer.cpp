#include "weft/train/models/transformer.h"

#include <algorithm>
#include <cmath>

#include "weft/attention/mask.h"
#include "weft/core/kernels.h"
#include "weft/nn/module.h"

namespace weft {
namespace {

void check(const TransformerOptions& o) {
  WEFT_CHECK(o.vocab_size >= 1 && o.dim >= 1 && o.depth >= 0 && o.heads >= 1 && o.context >= 1,
             "transformer: vocab_size, dim, heads and context must be at least 1 and depth not negative, got {}, {}, {}, {} and {}",
             o.vocab_size, o.dim, o.heads, o.context, o.depth);
  WEFT_CHECK(o.dim % o.heads == 0, "transformer: dim ({}) must be divisible by heads ({})", o.dim, o.heads);
  WEFT_CHECK(o.positions != Positions::rotary || o.dim / o.heads % 2 == 0,
             "transformer: rotary positions turn pairs of features, but the width of a head is odd, {}", o.dim / o.heads);
  WEFT_CHECK(o.positions != Positions::sinusoidal || o.dim % 2 == 0, "transformer: sinusoidal positions need an even dim, got {}", o.dim);
  WEFT_CHECK(o.mult > 0, "transformer: mult must be positive, got {}", o.mult);
  WEFT_CHECK(o.dropout >= 0 && o.dropout < 1, "transformer: dropout must be in [0, 1), got {}", o.dropout);
}

// The std of a layer that adds to the residual stream, relative to that of the others.
void scale_residual(Tensor& weight, const TransformerOptions& options) {
  if (!options.scaled_residual_init) return;
  WEFT_LAUNCH(weight, mul_scalar(weight, weight, 1 / std::sqrt(2 * static_cast<double>(options.depth))));
}

bool alike(const Tensor& a, const Tensor& b) { return a.dtype() == b.dtype() && a.device() == b.device(); }

FeedForwardOptions feed_forward_options(const TransformerOptions& options) {
  FeedForwardOptions result{
      .dim = options.dim, .mult = options.mult, .bias = options.feed_forward_bias, .init = Init::normal, .std = options.init_std};
  set_feed_forward_kind(result, options.feed_forward);
  return result;
}

}  // namespace

TransformerLayer::TransformerLayer(const TransformerOptions& options, bool causal)
    : attention_norm(options.norm, options.dim),
      attention({.dim = options.dim,
                 .heads = options.heads,
                 .kv_heads = options.kv_heads,
                 .packed = true,
                 .bias = options.qkv_bias,
                 .out_bias = options.out_bias,
                 .dropout = options.dropout,
                 .causal = causal,
                 .rope = options.positions == Positions::rotary,
                 .attention = options.attention,
                 .max_len = options.context,
                 .init = Init::normal,
                 .std = options.init_std}),
      feed_forward_norm(options.norm, options.dim),
      feed_forward(feed_forward_options(options)),
      dropout({.p = options.dropout}) {
  scale_residual(attention.to_out.weight, options);
  scale_residual(feed_forward.down.weight, options);
}

Tensor TransformerLayer::operator()(const Tensor& x, const AttentionInputs& inputs) const {
  const Tensor h = x + dropout(attention(attention_norm(x), inputs));
  return h + dropout(feed_forward(feed_forward_norm(h)));
}

// ---- generation -------------------------------------------------------------------------------------------------------------------------

TransformerState::TransformerState(const TransformerOptions& options, int64_t rows, const Tensor& lengths) : batch(rows) {
  WEFT_CHECK(batch >= 1, "transformer: generation needs at least one row, got {}", batch);
  for (int64_t layer = 0; layer < options.depth; ++layer) layers.emplace_back(options.context);
  if (!lengths.defined()) return;
  WEFT_CHECK(lengths.dtype() == DType::int64 && lengths.shape() == Shape{batch}, "transformer: expected lengths int64 [{}], got {}", batch,
             lengths);
  padding = lengths.to_vector<int64_t>();
  longest = *std::max_element(padding.begin(), padding.end());
  for (int64_t& row : padding) {
    WEFT_CHECK(row >= 1, "transformer: every prompt needs at least one token, got a length of {}", row);
    row = longest - row;
  }
}

namespace {

// The place of every new token in its row, int64 [B, n]; padding stands at place 0.
Tensor places(const TransformerState& state, int64_t n, Device device) {
  std::vector<int64_t> values;
  for (int64_t pad : state.padding) {
    for (int64_t i = 0; i < n; ++i) values.push_back(std::max<int64_t>(0, state.seen + i - pad));
  }
  return from_vector(values, {state.batch, n}, device);
}

// bool [B, 1, 1, M]: the keys that are no padding; undefined if all are.
Tensor key_mask(const TransformerState& state, int64_t m, Device device) {
  if (state.padding.empty()) return {};
  std::vector<int64_t> lengths;
  for (int64_t pad : state.padding) lengths.push_back(m - pad);
  return to(reshape(flip(padding_mask(from_vector(lengths, {state.batch}), m), 1), {state.batch, 1, 1, m}), device);
}

}  // namespace

// ---- Transformer ------------------------------------------------------------------------------------------------------------------------

Transformer::Transformer(const TransformerOptions& options, bool causal) : options_(options) {
  check(options);
  tokens = Embedding({.vocab_size = options.vocab_size, .dim = options.dim, .std = options.init_std});
  if (options.positions == Positions::learned) {
    positions = AbsolutePositions({.max_len = options.context, .dim = options.dim, .std = options.init_std});
  }
  dropout = Dropout({.p = options.dropout});
  for (int64_t layer = 0; layer < options.depth; ++layer) layers.emplace_back(options, causal);
  norm = Norm(options.norm, options.dim);
}

Tensor Transformer::operator()(const Tensor& ids, const Tensor& key_lengths) const {
  WEFT_CHECK(ids.defined() && ids.rank() == 2 && ids.dtype() == DType::int64, "transformer: expected token ids int64 [B, N], got {}", ids);
  Tensor x = embed(ids, nullptr);
  const AttentionInputs inputs{.bias = distance_bias(ids.size(1), ids.size(1)), .key_lengths = key_lengths};
  for (const TransformerLayer& layer : layers) x = layer(x, inputs);
  return norm(x);
}

Tensor Transformer::next(const Tensor& ids, TransformerState& state) const {
  WEFT_CHECK(ids.defined() && ids.rank() == 2 && ids.dtype() == DType::int64 && ids.size(0) == state.batch && ids.size(1) >= 1,
             "transformer: expected the next token ids int64 [{}, n], got {}", state.batch, ids);
  WEFT_CHECK(state.layers.size() == layers.size(), "transformer: the state is of a model of {} layers, this one has {}",
             state.layers.size(), layers.size());
  const NoGrad no_grad;
  const int64_t n = ids.size(1), m = state.seen + n;
  WEFT_CHECK(state.seen > 0 || state.longest <= n,
             "transformer: the longest prompt has {} tokens, as the state was told, but only {} came: give whole prompts, padded in front",
             state.longest, n);
  Tensor x = embed(ids, &state);
  AttentionInputs inputs{.mask = key_mask(state, m, ids.device()), .bias = distance_bias(n, m)};
  for (size_t i = 0; i < layers.size(); ++i) {
    inputs.cache = &state.layers[i];
    x = layers[i](x, inputs);
  }
  state.seen = m;
  return norm(select(x, 1, -1));
}

Tensor Transformer::embed(const Tensor& ids, const TransformerState* state) const {
  const int64_t n = ids.size(1), offset = state != nullptr ? state->seen : 0;
  Tensor x = tokens(ids);  // [B, N, C]
  const bool own_places = state != nullptr && !state->padding.empty();
  if (options_.positions == Positions::learned) {
    WEFT_CHECK(offset + n <= options_.context,
               "transformer: {} tokens are more than the context of {} that the model has learned positions for; build it with a larger "
               "context, or with rotary, sinusoidal or alibi positions",
               offset + n, options_.context);
    x = x + (own_places ? positions.at_positions(places(*state, n, ids.device())) : positions(n, offset));
  } else if (options_.positions == Positions::sinusoidal) {
    const Tensor waves = waves_.get(
        [&](const Tensor& kept) { return kept.size(0) >= offset + n && alike(kept, x); },
        [&] { return sinusoidal_positions(std::max(options_.context, 2 * (offset + n)), options_.dim, 0, 10000, true, x.options()); });
    x = x + (own_places ? embedding(waves, places(*state, n, ids.device())) : waves.rows(offset, offset + n));
  }
  return dropout(x);
}

// [H, n, m]: the last query stands at the last key.
Tensor Transformer::distance_bias(int64_t n, int64_t m) const {
  if (options_.positions != Positions::alibi) return {};
  const Tensor& like = tokens.weight;
  return distance_bias_.get(
      [&](const Tensor& kept) {
        return kept.shape() == Shape{options_.heads, n, m} && alike(kept, like);
      },
      [&] { return alibi_bias(to(to(alibi_slopes(options_.heads), like.dtype()), like.device()), n, m); });
}

// ---- language model ---------------------------------------------------------------------------------------------------------------------

TransformerLM::TransformerLM(const TransformerOptions& options) : transformer(options, true) {
  if (options.tied) return;
  output = Linear({.in = options.dim, .out = options.vocab_size, .bias = false, .init = Init::normal, .std = options.init_std});
}

Tensor TransformerLM::next(const Tensor& ids, TransformerState& state) const {
  const NoGrad no_grad;
  return logits_of(transformer.next(ids, state));
}

WEFT_LANGUAGE_MODEL(transformer) {
  const TransformerOptions defaults;
  return std::make_shared<ModelBody<TransformerLM>>(
      TransformerLM(TransformerOptions{.vocab_size = settings.vocab_size,
                                       .dim = settings.dim,
                                       .depth = settings.depth,
                                       .heads = settings.heads,
                                       .kv_heads = arguments.integer("kv_heads", 0),
                                       .context = settings.context,
                                       .attention = settings.attention,
                                       .positions = chosen(arguments, "positions", defaults.positions, position_kinds()),
                                       .norm = chosen(arguments, "norm", defaults.norm, norm_kinds()),
                                       .feed_forward = arguments.text("feed_forward", defaults.feed_forward),
                                       .mult = arguments.number("mult", defaults.mult),
                                       .dropout = settings.dropout,
                                       .qkv_bias = arguments.flag("qkv_bias", defaults.qkv_bias),
                                       .out_bias = arguments.flag("out_bias", defaults.out_bias),
                                       .feed_forward_bias = arguments.flag("feed_forward_bias", defaults.feed_forward_bias),
                                       .tied = arguments.flag("tied", defaults.tied),
                                       .init_std = arguments.number("init_std", defaults.init_std),
                                       .scaled_residual_init = arguments.flag("scaled_residual_init", defaults.scaled_residual_init)}));
}

}  // namespace weft
