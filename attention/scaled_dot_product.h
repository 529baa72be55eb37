// scaled_dot_product_attention: dot_product (dot_product.h) for tensors of any rank, leading axes broadcasting.
#pragma once

#include "weft/attention/mechanism.h"

namespace weft {

/// q [.., N, D], k [.., M, D], v [.., M, Dv] -> y [.., N, Dv], and the weights [.., N, M] if asked for. mask, bias and dropout_multiplier
/// broadcast to [.., N, M]. `layout` and `key_lengths` do not apply.
Attended scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options = {},
                                      Location at = Location::current());

}  // namespace weft
