#include "weft/nn/feed_forward.h"

#include <algorithm>

#include "weft/autograd/checkpoint.h"
#include "weft/core/spec.h"

namespace weft {
namespace {

struct GatedKind {
  const char* name;
  Activation activation;
  Gate gate;
};

constexpr GatedKind gated_kinds[] = {{"geglu", Activation::gelu, Gate::gelu},
                                     {"swiglu", Activation::silu, Gate::silu},
                                     {"reglu", Activation::relu, Gate::relu},
                                     {"glu", Activation::sigmoid, Gate::sigmoid}};

Gate gate_of(Activation activation) {
  for (const GatedKind& kind : gated_kinds) {
    if (kind.activation == activation) return kind.gate;
  }
  fail("FeedForward: gated units take gelu, silu, sigmoid or relu, got {}", name_of(activation));
}

}  // namespace

FeedForward::FeedForward(const FeedForwardOptions& options) : activation(options.activation), gated(options.gated), chunks(options.chunks) {
  const double factor = static_cast<double>(options.dim) * options.mult;
  WEFT_CHECK(options.hidden > 0 || (factor >= 1 && factor < 0x1p53),
             "FeedForward: the hidden width, dim * mult = {} * {}, must be 1 to 2^53", options.dim, options.mult);
  const int64_t width = options.hidden > 0 ? options.hidden : static_cast<int64_t>(factor);
  WEFT_CHECK(options.dim >= 1 && width >= 1, "FeedForward: dim and the hidden width must be at least 1, got {} and {}", options.dim, width);
  WEFT_CHECK(chunks >= 1, "FeedForward: chunks must be at least 1, got {}", chunks);
  if (gated) gate_of(activation);
  up = Linear({.in = options.dim, .out = gated ? 2 * width : width, .bias = options.bias, .init = options.init, .std = options.std});
  down = Linear({.in = width, .out = options.dim, .bias = options.bias, .init = options.init, .std = options.std});
  dropout = Dropout({.p = options.dropout});
}

Tensor FeedForward::operator()(const Tensor& x, Location at) const {
  if (chunks == 1) return down(hidden(x, at), at);
  WEFT_CHECK(x.rank() >= 2, "FeedForward: chunks needs x of [B, N, dim], got {}", x);
  const int64_t n = x.size(1);
  const int64_t size = std::max<int64_t>(1, (n + chunks - 1) / chunks);
  const auto apply = [module = *this, at](const std::vector<Tensor>& in) { return module.down(module.hidden(in[0], at), at); };
  std::vector<Tensor> ys;
  for (int64_t begin = 0; begin < n; begin += size) {
    ys.push_back(checkpoint(apply, {slice(x, 1, begin, std::min(begin + size, n), 1, at)}, at));
  }
  return ys.empty() ? down(hidden(x, at), at) : concat(ys, 1, at);
}

Tensor FeedForward::hidden(const Tensor& x, Location at) const {
  if (!gated && activation == Activation::gelu_tanh && up.bias.defined()) {
    return dropout(linear_gelu_tanh(x, up.weight, up.bias, at), at);
  }
  const Tensor h = up(x, at);
  return dropout(gated ? weft::gated(h, gate_of(activation), at) : activate(h, activation, at), at);
}

void set_feed_forward_kind(FeedForwardOptions& options, const std::string& name) {
  std::vector<std::string> known = activation_names();
  for (const GatedKind& kind : gated_kinds) {
    known.emplace_back(kind.name);
    if (kind.name != name) continue;
    options.activation = kind.activation;
    options.gated = true;
    return;
  }
  WEFT_CHECK(std::find(known.begin(), known.end(), name) != known.end(), "feed-forward: unknown kind \"{}\"; {}", name,
             suggest(name, known));
  options.activation = activation_from(name);
  options.gated = false;
}

}  // namespace weft
