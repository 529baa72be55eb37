// Embedding: rows of a table by number; tied to an output layer, the same table gives the logits.
#pragma once

#include "weft/autograd/ops.h"
#include "weft/nn/init.h"

namespace weft {

struct EmbeddingOptions {
  int64_t vocab_size = 0;
  int64_t dim = 0;
  /// Rows are drawn from N(0, std^2).
  double std = 1;
};

struct Embedding {
  Tensor weight;  // [vocab_size, dim]

  Embedding() = default;
  explicit Embedding(const EmbeddingOptions& options);

  /// ids int64 [...] -> [..., dim].
  Tensor operator()(const Tensor& ids, Location at = Location::current()) const { return embedding(weight, ids, at); }
  /// x [.., dim] -> logits [.., vocab_size] = x weight^T.
  Tensor as_logits(const Tensor& x, Location at = Location::current()) const { return linear(x, weight, {}, at); }

  void visit(auto&& f) { f("weight", weight); }
};

}  // namespace weft
