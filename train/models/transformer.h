// Transformer: pre-norm blocks over token embeddings, with any attention mechanism; a decoder-only language model and an encoder.
//
//   x = tokens[ids] + positions
//   for each layer:  x = x + attention(norm(x));  x = x + feed_forward(norm(x))
//   features = norm(x);  logits = features output^T
//
// The defaults are the GPT that nanoGPT and GPT-2 made common: learned positions, LayerNorm, one product for q, k and v without bias,
// GELU. A. Radford et al.: Language models are unsupervised multitask learners (2019). A. Vaswani et al.: Attention is all you need (2017).
//
// Weights by name (V vocabulary, C dim, L context, D = C / heads, G = kv_heads * D, F = mult * C; linear weights are [out, in]):
//
// | name                              | shape            | present                                                              |
// |-----------------------------------|------------------|----------------------------------------------------------------------|
// | tokens.weight                     | [V, C]           | always                                                               |
// | positions.weight                  | [L, C]           | positions = learned                                                  |
// | layers.I.attention_norm.weight    | [C], scale: [1]  | always; .bias [C] with norm = layer                                  |
// | layers.I.attention.to_qkv.weight  | [C + 2 G, C]     | always: rows of q, then k, then v, each head by head; .bias on request |
// | layers.I.attention.mechanism.*    |                  | mechanisms with parameters of their own                              |
// | layers.I.attention.to_out.weight  | [C, C]           | always; .bias [C] on request                                         |
// | layers.I.feed_forward_norm.weight | [C], scale: [1]  | always; .bias [C] with norm = layer                                  |
// | layers.I.feed_forward.up.weight   | [F, C]           | always; .bias [F]; geglu, swiglu: [2 F, C], the gate's rows first    |
// | layers.I.feed_forward.down.weight | [C, F]           | always; .bias [C]                                                    |
// | norm.weight                       | [C], scale: [1]  | always; .bias [C] with norm = layer                                  |
// | output.weight                     | [V, C]           | language model, unless tied to tokens.weight                         |
#pragma once

#include <string>
#include <vector>

#include "weft/attention/multi_head.h"
#include "weft/nn/dropout.h"
#include "weft/nn/embedding.h"
#include "weft/nn/feed_forward.h"
#include "weft/nn/kept_tensor.h"
#include "weft/nn/norm.h"
#include "weft/nn/positional.h"
#include "weft/train/models/language_model.h"

namespace weft {

struct TransformerOptions {
  int64_t vocab_size = 256;
  int64_t dim = 512;
  int64_t depth = 6;
  int64_t heads = 8;
  /// Heads of k and v (grouped or multi query attention); 0: heads.
  int64_t kv_heads = 0;
  /// Longest sequence. Learned positions end there; others go on.
  int64_t context = 1024;
  /// Mechanism spec: "dot_product", "local:window=128", ...
  std::string attention = "dot_product";
  Positions positions = Positions::learned;
  NormKind norm = NormKind::layer;
  /// "gelu", "relu_squared", any activation; gated: "geglu", "swiglu", "reglu", "glu".
  std::string feed_forward = "gelu";
  /// Hidden width of the feed-forward as a multiple of dim.
  double mult = 4;
  /// On the embeddings, the attention weights and the output of every branch.
  double dropout = 0;
  bool qkv_bias = false;
  bool out_bias = false;
  bool feed_forward_bias = true;
  /// The output layer uses tokens.weight.
  bool tied = false;
  /// Weights are drawn from N(0, init_std^2); the last layer of every branch from that divided by sqrt(2 depth), if asked for, so that the
  /// residual stream does not grow with the depth.
  double init_std = 0.02;
  bool scaled_residual_init = true;
};

struct TransformerLayer {
  Norm attention_norm;
  MultiHeadAttention attention;
  Norm feed_forward_norm;
  FeedForward feed_forward;
  Dropout dropout;

  TransformerLayer() = default;
  TransformerLayer(const TransformerOptions& options, bool causal);
  /// x [B, N, C] -> [B, N, C].
  Tensor operator()(const Tensor& x, const AttentionInputs& inputs) const;

  void visit(auto&& f) {
    f("attention_norm", attention_norm);
    f("attention", attention);
    f("feed_forward_norm", feed_forward_norm);
    f("feed_forward", feed_forward);
    f("dropout", dropout);
  }
};

/// Keys and values of the tokens seen so far, of every layer.
class TransformerState : public DecodeState {
 public:
  /// `lengths` int64 [batch], or undefined: prompts of unequal length, padded in front to the longest.
  TransformerState(const TransformerOptions& options, int64_t batch, const Tensor& lengths);
  int64_t length() const override { return layers.empty() ? seen : layers[0].length(); }

  std::vector<KeyValueCache> layers;
  /// int64 [batch]: the padding in front of every row; empty without.
  std::vector<int64_t> padding;
  /// Tokens of the longest prompt, which the first tokens must hold; 0 without lengths.
  int64_t longest = 0;
  int64_t batch = 0;
  /// Counted here too, for a model without layers.
  int64_t seen = 0;
};

/// Tokens to features: everything but the output layer. Evaluation may run in several threads at once.
struct Transformer {
  Embedding tokens;
  AbsolutePositions positions;  // learned
  Dropout dropout;
  std::vector<TransformerLayer> layers;
  Norm norm;

  Transformer() = default;
  Transformer(const TransformerOptions& options, bool causal);

  /// ids int64 [B, N] -> features [B, N, C]. key_lengths int64 [B] (or undefined): what lies beyond is padding.
  Tensor operator()(const Tensor& ids, const Tensor& key_lengths = {}) const;
  /// Generation: ids continue what `state` has seen. Returns the features of the last position only, [B, C].
  Tensor next(const Tensor& ids, TransformerState& state) const;
  const TransformerOptions& options() const { return options_; }

  void visit(auto&& f) {
    f("tokens", tokens);
    f("positions", positions);
    f("dropout", dropout);
    f("layers", layers);
    f("norm", norm);
  }

 private:
  Tensor embed(const Tensor& ids, const TransformerState* state) const;
  Tensor distance_bias(int64_t n, int64_t m) const;

  TransformerOptions options_;
  // Kept from call to call: the table of waves (sinusoidal), and the bias of the last lengths (alibi).
  KeptTensor waves_, distance_bias_;
};

/// Decoder-only: the logits at a position depend on the tokens up to it. By name: "transformer".
struct TransformerLM {
  Transformer transformer;
  Linear output;  // absent when tied

  TransformerLM() = default;
  explicit TransformerLM(const TransformerOptions& options);
  /// ids int64 [B, N] -> logits [B, N, V].
  Tensor operator()(const Tensor& ids) const { return logits_of(transformer(ids)); }
  /// Logits of the token that follows `ids` [B, n], which continue what `state` has seen: [B, V].
  Tensor next(const Tensor& ids, TransformerState& state) const;
  /// A fresh state for `batch` rows (see TransformerState).
  TransformerState start(int64_t batch, const Tensor& lengths = {}) const { return {transformer.options(), batch, lengths}; }
  const TransformerOptions& options() const { return transformer.options(); }

  void visit(auto&& f) {
    f("", transformer);
    f("output", output);
  }

 private:
  Tensor logits_of(const Tensor& features) const {
    return output.weight.defined() ? output(features) : transformer.tokens.as_logits(features);
  }
};

/// Bidirectional: every position sees all others that are no padding.
struct TransformerEncoder {
  Transformer transformer;

  TransformerEncoder() = default;
  explicit TransformerEncoder(const TransformerOptions& options) : transformer(options, false) {}
  /// ids int64 [B, N], key_lengths int64 [B] or undefined -> features [B, N, C]; those of padding mean nothing.
  Tensor operator()(const Tensor& ids, const Tensor& key_lengths = {}) const { return transformer(ids, key_lengths); }
  void visit(auto&& f) { f("", transformer); }
};

}  // namespace weft
