// Exact softmax attention on tensor cores, for float16 and bfloat16: what dot_product and dot_product_backward call where it applies.
#pragma once

#include "weft/attention/kernels.h"

namespace weft::cuda {

/// What the widest kernels ask for, with their static arrays.
inline constexpr int mma_shared_bytes = 133 << 10;

/// Half types, and rows of q, k and v of 1 to 256 elements (128 where a block has less shared memory than that).
bool has_mma(const Tensor& q, const Tensor& v);

void dot_product_mma(Tensor& o, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionScope& scope);
void dot_product_mma_backward(Tensor& dq, Tensor& dk, Tensor& dv, Tensor& dbias /*?*/, const Tensor& dout, const Tensor& dweights /*?*/,
                              const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& lse, const Tensor& delta,
                              const AttentionScope& scope);

}  // namespace weft::cuda
