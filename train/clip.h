// Clipping gradients by their common norm. The scale goes into the optimizer's step, so no gradient is written:
//
//     const double norm = grad_norm(optimizer.parameters());
//     optimizer.step(clip_scale(norm, 1.0));
#pragma once

#include <initializer_list>
#include <span>

#include "weft/autograd/graph.h"

namespace weft {

/// The norm of all gradients as one vector, summed in double in a fixed order. Parameters without a gradient count as zero.
double grad_norm(std::span<const Tensor> parameters);

/// What gradients of norm `norm` are multiplied by to have at most `max_norm`: PyTorch's min(1, max_norm / (norm + 1e-6)).
inline double clip_scale(double norm, double max_norm) {
  WEFT_CHECK(max_norm >= 0, "clip: max_norm must be at least 0, got {}", max_norm);
  const double scale = max_norm / (norm + 1e-6);
  return scale < 1 || scale != scale ? scale : 1;
}

/// Scales the gradients themselves, for use without an optimizer. Returns the norm before clipping.
double clip_grad_norm(std::span<const Tensor> parameters, double max_norm);
inline double clip_grad_norm(std::initializer_list<Tensor> parameters, double max_norm) {
  return clip_grad_norm(std::span<const Tensor>(parameters.begin(), parameters.size()), max_norm);
}

}  // namespace weft
