// The forward for a few queries, as generation has them: what dot_product calls where it applies.
#pragma once

#include "weft/attention/kernels.h"

namespace weft::cuda {

/// Are there so few that tiles of 64 would be slower?
bool has_few_queries(const Tensor& q, AttentionLayout layout);

void dot_product_few(Tensor& o, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionScope& scope);

}  // namespace weft::cuda
