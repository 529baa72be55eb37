#include "weft/nn/feed_forward.h"

#include <algorithm>

#include "weft/autograd/checkpoint.h"
#include "weft/core/spec.h"

namespace weft {
namespace {

Gate gate_of(Activation activation) {
  switch (activation) {
    case Activation::gelu:
      return Gate::gelu;
    case Activation::silu:
      return Gate::silu;
    case Activation::sigmoid:
      return Gate::sigmoid;
    case Activation::relu:
      return Gate::relu;
    default:
      fail("FeedForward: gated units take gelu, silu, sigmoid or relu, got {}", name_of(activation));
  }
}

}  // namespace

FeedForward::FeedForward(const FeedForwardOptions& options) : activation(options.activation), gated(options.gated), chunks(options.chunks) {
  const int64_t width = options.hidden > 0 ? options.hidden : static_cast<int64_t>(static_cast<double>(options.dim) * options.mult);
  WEFT_CHECK(options.dim >= 1 && width >= 1, "FeedForward: dim and the hidden width must be at least 1, got {} and {}", options.dim, width);
  WEFT_CHECK(chunks >= 1, "FeedForward: chunks must be at least 1, got {}", chunks);
  if (gated) gate_of(activation);
  up = Linear({.in = options.dim, .out = gated ? 2 * width : width, .bias = options.bias, .init = options.init, .std = options.std});
  down = Linear({.in = width, .out = options.dim, .bias = options.bias, .init = options.init, .std = options.std});
  dropout = Dropout({.p = options.dropout});
}

Tensor FeedForward::operator()(const Tensor& x) const {
  if (chunks == 1) return down(hidden(x));
  WEFT_CHECK(x.rank() >= 2, "FeedForward: chunks needs x of [B, N, dim], got {}", x);
  const int64_t n = x.size(1);
  const int64_t size = std::max<int64_t>(1, (n + chunks - 1) / chunks);
  const auto apply = [module = *this](const std::vector<Tensor>& in) {
    FeedForward piece = module;
    piece.up.weight = in[1], piece.up.bias = in[2], piece.down.weight = in[3], piece.down.bias = in[4];
    return piece.down(piece.hidden(in[0]));
  };
  std::vector<Tensor> ys;
  for (int64_t begin = 0; begin < n; begin += size) {
    const Tensor part = slice(x, 1, begin, std::min(begin + size, n));
    ys.push_back(checkpoint(apply, {part, up.weight, up.bias, down.weight, down.bias}));
  }
  return ys.empty() ? down(hidden(x)) : concat(ys, 1);
}

Tensor FeedForward::hidden(const Tensor& x) const {
  const Tensor h = up(x);
  return dropout(gated ? weft::gated(h, gate_of(activation)) : activate(h, activation));
}

void set_feed_forward_kind(FeedForwardOptions& options, const std::string& name) {
  static const std::vector<std::pair<std::string, Activation>> gated_kinds = {
      {"geglu", Activation::gelu}, {"swiglu", Activation::silu}, {"reglu", Activation::relu}, {"glu", Activation::sigmoid}};
  std::vector<std::string> known = activation_names();
  for (const auto& [kind, activation] : gated_kinds) {
    known.push_back(kind);
    if (kind != name) continue;
    options.activation = activation;
    options.gated = true;
    return;
  }
  WEFT_CHECK(std::find(known.begin(), known.end(), name) != known.end(), "feed-forward: unknown kind \"{}\"; {}", name,
             suggest(name, known));
  options.activation = activation_from(name);
  options.gated = false;
}

}  // namespace weft
