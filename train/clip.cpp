#include "weft/train/clip.h"

#include <cmath>
#include <vector>

#include "weft/core/kernels.h"

namespace weft {

double grad_norm(std::span<const Tensor> parameters) {
  std::vector<Tensor> gradients;
  for (const Tensor& p : parameters) {
    if (const Tensor gradient = grad(p); gradient.defined()) gradients.push_back(gradient);
  }
  if (gradients.empty()) return 0;
  Tensor squares = empty({}, {.dtype = DType::float64, .device = gradients[0].device()});
  WEFT_LAUNCH(squares, squared_norm(squares, gradients));
  return std::sqrt(squares.item());
}

double clip_grad_norm(std::span<const Tensor> parameters, double max_norm) {
  const double norm = grad_norm(parameters), scale = clip_scale(norm, max_norm);
  if (scale == 1) return norm;
  for (const Tensor& p : parameters) {
    const Tensor gradient = grad(p);
    if (!gradient.defined()) continue;
    Tensor scaled = empty_like(gradient);  // a gradient may share memory with a tensor of the user
    WEFT_LAUNCH(gradient, mul_scalar(scaled, gradient, scale));
    set_grad(p, scaled);
  }
  return norm;
}

}  // namespace weft
