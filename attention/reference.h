// Softmax attention composed of ops, over any pattern of visible pairs: the specification that fused mechanisms are tested against.
//
//   S = scale q k^T + bias, blocked where pattern, mask, causality or padding say so     [B, H, N, M]
//   A = softmax(S), a row without a visible key is zero;  W = A * dropout;  y = W v
//
// O(N M) time and memory; autograd derives the gradients.
#pragma once

#include "weft/attention/mechanism.h"

namespace weft {

/// `pattern` (undefined: everything) is bool and broadcasts to [B, H, N, M]; errors open with `op`.
Attended attention_reference(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& pattern,
                             const AttendOptions& options, Location at = Location::current());

}  // namespace weft
