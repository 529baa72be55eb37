// Losses: numbers to minimize.
#include "weft/autograd/check.h"
#include "weft/autograd/ops.h"
#include "weft/core/kernels.h"

namespace weft {
namespace {

Tensor reduced(const Tensor& losses, Reduction reduction, const Location& at) {
  switch (reduction) {
    case Reduction::mean:
      return mean(losses, {}, false, at);
    case Reduction::sum:
      return sum(losses, {}, false, at);
    default:
      return losses;
  }
}

void check_same_shape(const char* op, const Tensor& x, const Tensor& target) {
  check_float(op, x);
  check_float(op, target);
  check_alike(op, "x", x, "target", target);
  WEFT_CHECK(x.shape() == target.shape(), "{}: x is {}, target {}; their shapes must agree", op, x.shape(), target.shape());
}

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& targets, CrossEntropyOptions options, Location at) {
  check_float("cross_entropy", logits);
  WEFT_CHECK(targets.defined() && targets.dtype() == DType::int64, "cross_entropy: targets should be int64 class indices, got {}", targets);
  WEFT_CHECK(logits.device() == targets.device(), "cross_entropy: logits are {}, targets {}; move one with to(x, device)", logits, targets);
  Shape rows = logits.shape();
  if (rows.rank() > 0) rows.erase(rows.rank() - 1);
  WEFT_CHECK(logits.rank() >= 1 && targets.shape() == rows, "cross_entropy: logits {} need targets of shape {}, got {}", logits.shape(),
             rows, targets.shape());
  WEFT_CHECK(options.label_smoothing >= 0 && options.label_smoothing <= 1, "cross_entropy: label_smoothing should be in [0, 1], got {}",
             options.label_smoothing);
  const int64_t classes = logits.size(-1);
  const Tensor flat = detach(logits).viewed_as({targets.numel(), classes});  // [R, V]
  const TensorOptions statistics{.dtype = acc_dtype(logits.dtype()), .device = logits.device()};
  Tensor losses = empty(rows, statistics), lse = empty(rows, statistics), share;
  if (options.reduction == Reduction::mean) share = empty({}, statistics);  // of a row: 1 / 0 when every one is ignored
  WEFT_LAUNCH(targets, target_share(share, targets, classes, options.ignore_index,
                                    format("cross_entropy: target {} is out of range for {} classes (ignore_index is {})", "{}", classes,
                                           options.ignore_index)));
  WEFT_LAUNCH(flat, cross_entropy(losses, lse, flat, targets, options.ignore_index, options.label_smoothing));
  Tensor y = losses;
  if (options.reduction != Reduction::none) {
    y = empty({}, statistics);
    AxisSet all;
    for (int i = 0; i < rows.rank(); ++i) all.add(i);
    WEFT_LAUNCH(flat, sum(y, losses, all));
    if (share.defined()) WEFT_LAUNCH(flat, mul(y, y, share));
  }
  return record(
      "cross_entropy", y, {logits},
      [flat, lse, targets, options, share, shape = logits.shape()](const Tensor& dy) -> Grads {
        Tensor scaled = dy, dlosses = empty_like(lse);
        if (share.defined()) {
          scaled = empty_like(dy);
          WEFT_LAUNCH(dy, mul(scaled, dy, share));
        }
        WEFT_LAUNCH(dy, broadcast_to(dlosses, scaled));
        // Nobody else can see the logits: their memory becomes the gradient.
        Tensor dlogits = flat.sole_owner() && !graph_is_retained() ? flat : empty_like(flat);
        WEFT_LAUNCH(flat, cross_entropy_backward(dlogits, dlosses, flat, lse, targets, options.ignore_index, options.label_smoothing));
        return {dlogits.viewed_as(shape)};
      },
      at);
}

Tensor mse_loss(const Tensor& x, const Tensor& target, Reduction reduction, Location at) {
  check_same_shape("mse_loss", x, target);
  return reduced(square(sub(x, target, at), at), reduction, at);
}

// max(x, 0) - x t + log(1 + exp(-|x|)) = (1 - t) x - log(sigmoid(x)), where nothing cancels.
Tensor binary_cross_entropy_with_logits(const Tensor& x, const Tensor& target, Reduction reduction, Location at) {
  check_same_shape("binary_cross_entropy_with_logits", x, target);
  return reduced(sub(mul(rsub_scalar(target, 1, at), x, at), log_sigmoid(x, at), at), reduction, at);
}

}  // namespace weft
