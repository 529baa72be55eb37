// Normalization over the last axis (layer norm, RMS norm), over groups of channels, and to unit length along any axis.
#include <cmath>
#include <limits>

#include "weft/autograd/check.h"
#include "weft/autograd/ops.h"
#include "weft/core/kernels.h"

namespace weft {
namespace {

// `parameter` is undefined, or one number per channel.
void check_channels(const char* op, const char* name, const Tensor& parameter, const Tensor& x, int64_t channels) {
  if (!parameter.defined()) return;
  WEFT_CHECK(parameter.shape() == Shape({channels}), "{}: {} should be [{}] for x {}, got {}", op, name, channels, x.shape(),
             parameter.shape());
  check_alike(op, "x", x, name, parameter);
}

void check_eps(const char* op, double eps) {
  WEFT_CHECK(std::isfinite(eps) && eps >= 0, "{}: eps must be finite and not negative, got {}", op, eps);
}

// The gradient of a weight or bias, if the graph wants one.
Tensor make_if(bool wanted, int64_t channels, const Tensor& like) { return wanted ? empty({channels}, like.options()) : Tensor(); }

// What kernels keep for the backward: float32 where x is in half precision.
TensorOptions statistics_of(const Tensor& x) { return {.dtype = acc_dtype(x.dtype()), .device = x.device()}; }

Shape without(Shape shape, int axis) {
  shape.erase(axis);
  return shape;
}

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, Location at) {
  check_float("layer_norm", x);
  WEFT_CHECK(x.rank() >= 1, "layer_norm: expected at least 1 dimension, got a scalar");
  check_channels("layer_norm", "weight", weight, x, x.size(-1));
  check_channels("layer_norm", "bias", bias, x, x.size(-1));
  check_eps("layer_norm", eps);
  const Shape rows = without(x.shape(), x.rank() - 1);
  Tensor y = empty_like(x), mean = empty(rows, statistics_of(x)), rstd = empty_like(mean);
  WEFT_LAUNCH(x, layer_norm(y, mean, rstd, x, weight, bias, eps));
  return record(
      "layer_norm", y, {x, weight, bias},
      [x, weight, mean, rstd, dweight_wanted = requires_grad(weight), dbias_wanted = requires_grad(bias)](const Tensor& dy) -> Grads {
        Tensor dx = empty_like(x), dweight = make_if(dweight_wanted, x.size(-1), x), dbias = make_if(dbias_wanted, x.size(-1), x);
        WEFT_LAUNCH(x, layer_norm_backward(dx, dweight, dbias, dy, x, mean, rstd, weight));
        return {dx, dweight, dbias};
      },
      at);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, std::optional<double> eps, Location at) {
  check_float("rms_norm", x);
  WEFT_CHECK(x.rank() >= 1, "rms_norm: expected at least 1 dimension, got a scalar");
  check_channels("rms_norm", "weight", weight, x, x.size(-1));
  check_eps("rms_norm", eps.value_or(0));
  const double machine_epsilon =
      x.dtype() == DType::float64 ? std::numeric_limits<double>::epsilon() : static_cast<double>(std::numeric_limits<float>::epsilon());
  Tensor y = empty_like(x), rstd = empty(without(x.shape(), x.rank() - 1), statistics_of(x));
  WEFT_LAUNCH(x, rms_norm(y, rstd, x, weight, eps.value_or(machine_epsilon)));
  return record(
      "rms_norm", y, {x, weight},
      [x, weight, rstd, dweight_wanted = requires_grad(weight)](const Tensor& dy) -> Grads {
        Tensor dx = empty_like(x), dweight = make_if(dweight_wanted, x.size(-1), x);
        WEFT_LAUNCH(x, rms_norm_backward(dx, dweight, dy, x, rstd, weight));
        return {dx, dweight};
      },
      at);
}

Tensor group_norm(const Tensor& x, int64_t groups, const Tensor& weight, const Tensor& bias, double eps, Location at) {
  check_float("group_norm", x);
  WEFT_CHECK(x.rank() >= 2, "group_norm: expected [batch, channels, ...], got {}", x);
  const int64_t channels = x.size(1);
  WEFT_CHECK(groups >= 1 && channels % groups == 0, "group_norm: {} channels cannot be split into {} groups; x is {}", channels, groups, x);
  check_channels("group_norm", "weight", weight, x, channels);
  check_channels("group_norm", "bias", bias, x, channels);
  check_eps("group_norm", eps);
  Tensor y = empty_like(x), mean = empty({x.size(0), groups}, statistics_of(x)), rstd = empty_like(mean);
  WEFT_LAUNCH(x, group_norm(y, mean, rstd, x, weight, bias, groups, eps));
  return record(
      "group_norm", y, {x, weight, bias},
      [x, weight, mean, rstd, groups, dweight_wanted = requires_grad(weight),
       dbias_wanted = requires_grad(bias)](const Tensor& dy) -> Grads {
        Tensor dx = empty_like(x), dweight = make_if(dweight_wanted, x.size(1), x), dbias = make_if(dbias_wanted, x.size(1), x);
        WEFT_LAUNCH(x, group_norm_backward(dx, dweight, dbias, dy, x, mean, rstd, weight, groups));
        return {dx, dweight, dbias};
      },
      at);
}

Tensor l2_normalize(const Tensor& x, int axis, double eps, Location at) {
  check_float("l2_normalize", x);
  const int along = normalize_axis("l2_normalize", axis, x.shape());
  check_eps("l2_normalize", eps);
  Tensor y = empty_like(x), norm = empty(without(x.shape(), along), statistics_of(x));
  WEFT_LAUNCH(x, l2_normalize(y, norm, x, along, eps));
  return record(
      "l2_normalize", y, {x},
      [y, norm, along, eps](const Tensor& dy) -> Grads {
        Tensor dx = empty_like(y);
        WEFT_LAUNCH(y, l2_normalize_backward(dx, dy, y, norm, along, eps));
        return {dx};
      },
      at);
}

}  // namespace weft
