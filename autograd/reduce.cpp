// Reductions over any set of axes, and running sums.
#include "weft/autograd/check.h"
#include "weft/autograd/ops.h"
#include "weft/core/kernels.h"

namespace weft {
namespace {

// What a reduction of x over `axes` (all, if none are given) looks like.
struct ReducedAxes {
  AxisSet axes;
  Shape result;      // the shape of y
  Shape kept;        // the same with reduced axes of size 1: broadcasts back to x
  int64_t size = 1;  // elements behind each result

  ReducedAxes(const char* op, const Tensor& x, const std::vector<int>& given, bool keep_dims) {
    check_float(op, x);
    for (int axis : given) {
      const int i = normalize_axis(op, axis, x.shape());
      WEFT_CHECK(!axes.has(i), "{}: axis {} is given twice for {}", op, i, x);
      axes.add(i);
    }
    for (int i = 0; i < x.rank(); ++i) {
      if (given.empty()) axes.add(i);
      if (axes.has(i)) size *= x.shape()[i];
      kept.push_back(axes.has(i) ? 1 : x.shape()[i]);
      if (!axes.has(i) || keep_dims) result.push_back(kept[i]);
    }
  }
};

void check_not_empty(const char* op, const Tensor& x, const ReducedAxes& r) {
  WEFT_CHECK(r.size > 0, "{}: {} has no element along the reduced axes", op, x);
}

// A gradient of shape `kept`, repeated along the reduced axes.
Tensor spread(const Tensor& dy, const Shape& kept, const Shape& shape) {
  Tensor dx = empty(shape, dy.options());
  WEFT_LAUNCH(dx, broadcast_to(dx, dy.viewed_as(kept)));
  return dx;
}

}  // namespace

Tensor sum(const Tensor& x, const std::vector<int>& axes, bool keep_dims, Location at) {
  const ReducedAxes r("sum", x, axes, keep_dims);
  Tensor y = empty(r.result, x.options());
  WEFT_LAUNCH(x, sum(y, x, r.axes));
  return record(
      "sum", y, {x}, [kept = r.kept, shape = x.shape()](const Tensor& dy) -> Grads { return {spread(dy, kept, shape)}; }, at);
}

Tensor mean(const Tensor& x, const std::vector<int>& axes, bool keep_dims, Location at) {
  const ReducedAxes r("mean", x, axes, keep_dims);
  const double share = 1 / static_cast<double>(r.size);
  Tensor y = empty(r.result, x.options());
  WEFT_LAUNCH(x, sum(y, x, r.axes));
  WEFT_LAUNCH(x, mul_scalar(y, y, share));
  return record(
      "mean", y, {x},
      [share, kept = r.kept, shape = x.shape()](const Tensor& dy) -> Grads {
        Tensor scaled = empty_like(dy);
        WEFT_LAUNCH(dy, mul_scalar(scaled, dy, share));
        return {spread(scaled, kept, shape)};
      },
      at);
}

namespace {

Tensor extreme(const char* op, bool largest, const Tensor& x, const std::vector<int>& axes, bool keep_dims, Location at) {
  const ReducedAxes r(op, x, axes, keep_dims);
  check_not_empty(op, x, r);
  Tensor y = empty(r.result, x.options());
  if (largest) {
    WEFT_LAUNCH(x, reduce_max(y, x, r.axes));
  } else {
    WEFT_LAUNCH(x, reduce_min(y, x, r.axes));
  }
  return record(
      op, y, {x},
      [x, y, axes = r.axes](const Tensor& dy) -> Grads {
        Tensor dx = empty_like(x);
        WEFT_LAUNCH(x, reduce_extreme_backward(dx, dy, x, y, axes));
        return {dx};
      },
      at);
}

}  // namespace

Tensor max(const Tensor& x, const std::vector<int>& axes, bool keep_dims, Location at) {
  return extreme("max", true, x, axes, keep_dims, at);
}

Tensor min(const Tensor& x, const std::vector<int>& axes, bool keep_dims, Location at) {
  return extreme("min", false, x, axes, keep_dims, at);
}

Tensor logsumexp(const Tensor& x, const std::vector<int>& axes, bool keep_dims, Location at) {
  const ReducedAxes r("logsumexp", x, axes, keep_dims);
  Tensor y = empty(r.result, x.options());
  WEFT_LAUNCH(x, logsumexp(y, x, r.axes));
  return record(
      "logsumexp", y, {x},
      [x, y, axes = r.axes](const Tensor& dy) -> Grads {
        Tensor dx = empty_like(x);
        WEFT_LAUNCH(x, logsumexp_backward(dx, dy, x, y, axes));
        return {dx};
      },
      at);
}

namespace {

Tensor place_of_extreme(const char* op, bool largest, const Tensor& x, int axis) {
  check_float(op, x);
  const int along = normalize_axis(op, axis, x.shape());
  WEFT_CHECK(x.shape()[along] > 0, "{}: {} has no element along axis {}", op, x, along);
  Tensor values = x;
  if (!largest) {
    values = empty_like(x);
    WEFT_LAUNCH(x, neg(values, x));
  }
  Shape shape = x.shape();
  shape.erase(along);
  Tensor y = empty(shape, {.dtype = DType::int64, .device = x.device()});
  WEFT_LAUNCH(x, argmax(y, values, along));
  return y;
}

}  // namespace

Tensor argmax(const Tensor& x, int axis) { return place_of_extreme("argmax", true, x, axis); }
Tensor argmin(const Tensor& x, int axis) { return place_of_extreme("argmin", false, x, axis); }

Tensor cumsum(const Tensor& x, int axis, Location at) {
  check_float("cumsum", x);
  const int along = normalize_axis("cumsum", axis, x.shape());
  Tensor y = empty_like(x);
  WEFT_LAUNCH(x, cumsum(y, x, along, false));
  return record(
      "cumsum", y, {x},
      [along](const Tensor& dy) -> Grads {  // x[i] is in every y[j], j >= i
        Tensor dx = empty_like(dy);
        WEFT_LAUNCH(dy, cumsum(dx, dy, along, true));
        return {dx};
      },
      at);
}

Tensor sum_to(const Tensor& x, const Shape& shape, Location at) {
  check_float("sum_to", x);
  if (shape == x.shape()) return x;
  WEFT_CHECK(broadcasts_to(shape, x.shape()), "sum_to: {} does not broadcast to {}, the shape of x", shape, x.shape());
  const int added = x.rank() - shape.rank();
  AxisSet axes;
  for (int i = 0; i < x.rank(); ++i) {
    if (i < added || shape[i - added] != x.shape()[i]) axes.add(i);
  }
  Tensor y = empty(shape, x.options());
  WEFT_LAUNCH(x, sum(y, x, axes));
  return record(
      "sum_to", y, {x}, [kept = shape, full = x.shape()](const Tensor& dy) -> Grads { return {spread(dy, kept, full)}; }, at);
}

}  // namespace weft
