#include "weft/train/clip.h"

#include <limits>
#include <vector>

#include "weft/autograd/ops.h"
#include "weft/core/kernels.h"
#include "weft/train/optimizer.h"

namespace weft {

Tensor grad_norm(std::span<const Tensor> parameters) {
  check_one_device("grad_norm", parameters);
  std::vector<Tensor> gradients;
  for (const Tensor& p : parameters) {
    if (const Tensor gradient = grad(p); gradient.defined()) gradients.push_back(gradient);
  }
  const Device device = parameters.empty() ? default_device() : parameters[0].device();
  const TensorOptions options{.dtype = DType::float64, .device = device};
  if (gradients.empty()) return zeros({}, options);
  NoGrad no_grad;
  Tensor squares = empty({}, options);
  WEFT_LAUNCH(squares, squared_norm(squares, gradients));
  return sqrt(squares);
}

Tensor clip_scale(const Tensor& norm, double max_norm) {
  WEFT_CHECK(max_norm >= 0, "clip: max_norm must be at least 0, got {}", max_norm);
  NoGrad no_grad;
  // norm - norm is 0, or NaN where the norm is not finite: max_norm / infinity would be a harmless 0
  return clamp_max(max_norm / (norm + 1e-6), 1) + (norm - norm);
}

Tensor clip_grad_norm(std::span<const Tensor> parameters, double max_norm) {
  NoGrad no_grad;
  const Tensor norm = grad_norm(parameters), scale = clip_scale(norm, max_norm);
  for (const Tensor& p : parameters) {
    const Tensor gradient = grad(p);
    if (gradient.defined()) set_grad(p, gradient * to(scale, gradient.dtype()));  // not in place: a user's tensor may share its memory
  }
  return norm;
}

}  // namespace weft
