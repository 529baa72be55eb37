// The linear layer: a product onto its bias.
#include "weft/core/kernels.h"

namespace weft::cpu {

void linear(Tensor& y, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  broadcast_to(y, bias);
  matmul(y, x, weight, false, true, 1, true);
}

void linear_gelu_tanh(Tensor& y, Tensor& h, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  Tensor& to = h.defined() ? h : y;
  linear(to, x, weight, bias);
  gelu_tanh(y, to);
}

}  // namespace weft::cpu
