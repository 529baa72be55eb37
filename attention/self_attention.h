// SelfAttention: the frame that the self-attention modules of the attentions package share, with their state-dict names. A module is this
// frame and one core, a function of q, k and v:
//
//   q = x w_q^T, k = x w_k^T, v = x w_v^T, split into heads; rotary positions on q and k if asked for
//   y = merge(core(q, k, v; mask, bias, scale = 1 / (sqrt(head_dim) temperature), dropout)) w_o^T
//
// | original            | here                          |   | original                 | here                                   |
// |---------------------|-------------------------------|---|--------------------------|----------------------------------------|
// | d_model             | dim                           |   | mask (bool)              | call.mask                              |
// | input_dim           | input_dim                     |   | mask (floating)          | call.bias                              |
// | num_heads           | heads                         |   | returned weights         | call.weights = Weights::dense          |
// | dropout             | dropout                       |   | get_attention_weights()  | attention_weights()                    |
// | bias, rope          | bias, rope                    |   | w_q.weight, ...          | the same names                         |
// | temperature         | temperature (assignable)      |   |                          |                                        |
#pragma once

#include <functional>
#include <optional>

#include "weft/attention/mechanism.h"
#include "weft/nn/dropout.h"
#include "weft/nn/linear.h"

namespace weft {

struct SelfAttentionOptions {
  int64_t dim = 0;
  /// Width of x; 0: dim.
  int64_t input_dim = 0;
  /// Unset: the default of the module.
  std::optional<int64_t> heads = {};
  /// On the attention weights.
  double dropout = 0.1;
  /// Biases on all four projections.
  bool bias = false;
  bool rope = false;
  double temperature = 1;
};

/// Which attention weights a call computes; all but none and compact cost N x N memory.
enum class Weights {
  none,
  /// [B, N, N], the mean over the heads.
  head_mean,
  /// [B, H, N, N].
  dense,
  /// The layout of the mechanism's own pattern, for those that have one (see there).
  compact,
};

/// What one call may bring along. Masks and biases: [N] (over keys), [1|N, 1|N], [1|B, 1|N, 1|N] or [1|B, 1|H, 1|N, 1|N].
struct SelfAttentionCall {
  /// bool, true = may attend.
  Tensor mask = {};
  /// Added to the scores where the mask allows; has a gradient.
  Tensor bias = {};
  /// The same as the mask that they describe, without its memory: causal, and int64 [B] of sequence lengths.
  bool causal = false;
  Tensor key_lengths = {};
  Weights weights = Weights::none;
  /// In training, instead of random dropout: multipliers of the weights (0 or 1 / (1 - p)), [B, H, N, N].
  Tensor dropout_multiplier = {};
};

/// What a module tells the frame about itself.
struct SelfAttentionKind {
  /// Opens every error message.
  const char* name = "SelfAttention";
  int64_t heads = 1;
  /// 0: heads.
  int64_t kv_heads = 0;
  /// As the original calls them in its messages.
  const char* heads_name = "num_heads";
  int min_mask_rank = 1;
  int max_mask_rank = 4;
  /// Floating masks of zeros and ones mean the same as bool ones.
  bool floating_mask = false;
  /// Weights are [B, H, N, N]; without: [B, N, N].
  bool head_axis = true;
  bool has_compact_weights = false;
};

/// core(q, k, v, options, at): q [B, N, H, D], k and v [B, N, Hkv, D].
using AttentionCore = std::function<Attended(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options, Location at)>;

struct SelfAttention {
  Linear w_q, w_k, w_v, w_o;
  Dropout dropout;
  double temperature = 1;

  SelfAttention() = default;
  SelfAttention(const SelfAttentionOptions& options, const SelfAttentionKind& kind, AttentionCore core);

  /// x [B, N, input_dim] -> y [B, N, dim], and the weights if asked for.
  Attended operator()(const Tensor& x, const SelfAttentionCall& call = {}, Location at = Location::current()) const;
  /// The weights of the latest call, averaged over the heads, outside the graph: [B, N, N]. An error if that call did not ask for weights.
  /// Calls that ask for weights store them in the module, so they must not run in several threads at once; others may.
  Tensor attention_weights() const;

  /// As resolved: input_dim and heads are set.
  const SelfAttentionOptions& options() const { return options_; }
  int64_t head_dim() const { return options_.dim / *options_.heads; }

  void visit(auto&& f) {
    f("w_q", w_q);
    f("w_k", w_k);
    f("w_v", w_v);
    f("w_o", w_o);
    f("dropout", dropout);
  }

 private:
  AttendOptions attend_options(const Tensor& x, const SelfAttentionCall& call) const;

  SelfAttentionOptions options_;
  SelfAttentionKind kind_;
  AttentionCore core_;
  mutable Tensor stored_;
};

}  // namespace weft
