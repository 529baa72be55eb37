// FeedForward: the two-layer network of a transformer block, applied to every position.
//
//   plain: y = down(act(up(x)))                                    gelu, relu_squared, ...
//   gated: y = down(act(g) * h), (g | h) = up(x)                   GEGLU (gelu), SwiGLU (silu): Shazeer 2020
//
// With `chunks` > 1 the sequence is cut into pieces that go through one after the other and whose hidden activations are recomputed in
// the backward: memory for one piece instead of all, the same values.
#pragma once

#include <string>

#include "weft/nn/activation.h"
#include "weft/nn/dropout.h"
#include "weft/nn/linear.h"

namespace weft {

struct FeedForwardOptions {
  int64_t dim = 0;
  /// Hidden width as a multiple of dim; `hidden` sets it directly.
  double mult = 4;
  int64_t hidden = 0;
  Activation activation = Activation::gelu;
  bool gated = false;
  bool bias = true;
  /// On the hidden activations.
  double dropout = 0;
  int64_t chunks = 1;
  Init init = Init::fan_in;
  double std = 0.02;
};

struct FeedForward {
  Linear up;    // dim -> hidden, or 2 * hidden when gated
  Linear down;  // hidden -> dim
  Activation activation = Activation::gelu;
  bool gated = false;
  Dropout dropout;
  int64_t chunks = 1;

  FeedForward() = default;
  explicit FeedForward(const FeedForwardOptions& options);
  /// x [B, N, dim] -> [B, N, dim] (any leading axes when chunks is 1).
  Tensor operator()(const Tensor& x, Location at = Location::current()) const;
  void visit(auto&& f) {
    f("up", up);
    f("down", down);
    f("dropout", dropout);
  }

 private:
  Tensor hidden(const Tensor& x, Location at) const;
};

/// Sets activation and gated from one name: "gelu", "relu_squared", any activation, "geglu", "swiglu", "reglu", "glu".
void set_feed_forward_kind(FeedForwardOptions& options, const std::string& name);

}  // namespace weft
