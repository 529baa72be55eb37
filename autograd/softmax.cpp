// Softmax and its logarithm along any axis, with an optional mask.
#include "weft/autograd/check.h"
#include "weft/autograd/ops.h"
#include "weft/core/kernels.h"

namespace weft {
namespace {

int check_softmax(const char* op, const Tensor& x, int axis, const Tensor& mask) {
  check_float(op, x);
  WEFT_CHECK(x.rank() >= 1, "{}: expected at least 1 dimension, got a scalar", op);
  if (mask.defined()) check_mask(op, mask, x);
  return normalize_axis(op, axis, x.shape());
}

}  // namespace

Tensor softmax(const Tensor& x, int axis, const Tensor& mask, Location at) {
  const int along = check_softmax("softmax", x, axis, mask);
  Tensor y = empty_like(x);
  WEFT_LAUNCH(x, softmax(y, x, mask, along));
  return record(
      "softmax", y, {x},
      [y, along](const Tensor& dy) -> Grads {
        Tensor dx = empty_like(y);  // dx = y * (dy - sum(dy * y)); y is 0 where masked
        WEFT_LAUNCH(y, softmax_backward(dx, dy, y, along));
        return {dx};
      },
      at);
}

Tensor log_softmax(const Tensor& x, int axis, const Tensor& mask, Location at) {
  const int along = check_softmax("log_softmax", x, axis, mask);
  Tensor y = empty_like(x);
  WEFT_LAUNCH(x, log_softmax(y, x, mask, along));
  return record(
      "log_softmax", y, {x},
      [y, along](const Tensor& dy) -> Grads {
        Tensor dx = empty_like(y);  // dx = dy - exp(y) * sum(dy); y is -infinity where masked
        WEFT_LAUNCH(y, log_softmax_backward(dx, dy, y, along));
        return {dx};
      },
      at, mask.defined() ? Infinities::asked_for : Infinities::anomaly);
}

}  // namespace weft
