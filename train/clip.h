// Clipping gradients by their common norm. The scale goes into the optimizer's step, so no gradient is written; norm and scale stay on the
// device, so on CUDA nothing waits for them:
//
//     const Tensor norm = grad_norm(optimizer.parameters());
//     optimizer.step(clip_scale(norm, 1.0));
#pragma once

#include <initializer_list>
#include <span>

#include "weft/autograd/graph.h"

namespace weft {

/// The norm of all gradients as one vector, a float64 scalar on their device, summed in double in a fixed order. Parameters without a
/// gradient count as zero.
Tensor grad_norm(std::span<const Tensor> parameters);

/// What gradients of norm `norm` are multiplied by to have at most `max_norm`: PyTorch's min(1, max_norm / (norm + 1e-6)). NaN if the norm
/// is NaN or infinite: an optimizer's step then changes nothing.
Tensor clip_scale(const Tensor& norm, double max_norm);

/// Scales the gradients themselves, for use without an optimizer. Returns the norm before clipping.
Tensor clip_grad_norm(std::span<const Tensor> parameters, double max_norm);
inline Tensor clip_grad_norm(std::initializer_list<Tensor> parameters, double max_norm) {
  return clip_grad_norm(std::span<const Tensor>(parameters.begin(), parameters.size()), max_norm);
}

}  // namespace weft
