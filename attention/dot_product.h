// Exact softmax attention: every query against every key.
//
//   W = softmax(scale q k^T + bias), masked;  y = W v            O(N M D) time
#pragma once

#include "weft/attention/mechanism.h"

namespace weft {

/// q [B, N, H, D], k [B, M, Hkv, D], v [B, M, Hkv, Dv] -> y [B, N, H, Dv] (or heads first, see AttendOptions).
Attended dot_product(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options = {},
                     Location at = Location::current());
/// The same, composed of ops (reference.h).
Attended dot_product_reference(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options = {},
                               Location at = Location::current());

}  // namespace weft
