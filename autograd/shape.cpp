// Ops that move elements. Each backward is another op of this file's kernels.
#include <cmath>

#include "weft/autograd/ops.h"
#include "weft/core/kernels.h"

namespace weft {
namespace {

Shape with_size(Shape shape, int axis, int64_t size) {
  shape[axis] = size;
  return shape;
}

// x[begin : end : step] along axis, outside the graph. Whole rows of the first axis share storage.
Tensor piece(const Tensor& x, int axis, int64_t begin, int64_t end, int64_t step = 1) {
  if (axis == 0 && step == 1) return x.rows(begin, end);
  Tensor y = empty(with_size(x.shape(), axis, (end - begin + step - 1) / step), x.options());
  WEFT_LAUNCH(x, slice(y, x, axis, begin, step));
  return y;
}

// A change of shape that keeps the elements in place.
Tensor viewed(const char* op, const Tensor& x, const Shape& shape, const Location& at) {
  return record(
      op, x.viewed_as(shape), {x}, [old = x.shape()](const Tensor& dy) -> Grads { return {dy.viewed_as(old)}; }, at);
}

}  // namespace

Tensor reshape(const Tensor& x, const std::vector<int64_t>& sizes, Location at) {
  WEFT_CHECK(sizes.size() <= Shape::max_rank, "reshape: at most {} dimensions are supported, got {}", Shape::max_rank, sizes.size());
  Shape shape;
  int unknown = -1;
  int64_t known = 1;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == -1) {
      WEFT_CHECK(unknown < 0, "reshape: only one size may be -1, got -1 for axes {} and {}", unknown, i);
      unknown = static_cast<int>(i);
      shape.push_back(0);
    } else {
      shape.push_back(sizes[i]);
      known *= sizes[i];
    }
  }
  if (unknown >= 0) {
    WEFT_CHECK(known > 0 && x.numel() % known == 0, "reshape: {} has {} elements, which the known sizes (product {}) do not divide", x,
               x.numel(), known);
    shape[unknown] = x.numel() / known;
  }
  return viewed("reshape", x, shape, at);
}

Tensor flatten(const Tensor& x, int first, int last, Location at) {
  if (x.rank() == 0) return viewed("flatten", x, {1}, at);
  first = normalize_axis("flatten", first, x.shape());
  last = normalize_axis("flatten", last, x.shape());
  WEFT_CHECK(first <= last, "flatten: first axis {} lies behind last axis {}", first, last);
  Shape shape;
  for (int axis = 0; axis < x.rank(); ++axis) {
    if (axis > first && axis <= last) {
      shape[first] *= x.shape()[axis];
    } else {
      shape.push_back(x.shape()[axis]);
    }
  }
  return viewed("flatten", x, shape, at);
}

Tensor unsqueeze(const Tensor& x, int axis, Location at) {
  Shape shape = x.shape();
  shape.insert(normalize_axis("unsqueeze", axis, x.rank() + 1), 1);
  return viewed("unsqueeze", x, shape, at);
}

Tensor squeeze(const Tensor& x, int axis, Location at) {
  axis = normalize_axis("squeeze", axis, x.shape());
  WEFT_CHECK(x.shape()[axis] == 1, "squeeze: axis {} of {} has size {}, expected 1", axis, x, x.shape()[axis]);
  Shape shape = x.shape();
  shape.erase(axis);
  return viewed("squeeze", x, shape, at);
}

Tensor permute(const Tensor& x, const std::vector<int>& axes, Location at) {
  WEFT_CHECK(static_cast<int>(axes.size()) == x.rank(), "permute: {} has {} axes, got an order of {}", x, x.rank(), axes.size());
  std::vector<int> order, inverse(axes.size(), -1);
  Shape shape;
  int last = -1;  // of the axes so far that are longer than 1
  bool moves = false;
  for (size_t i = 0; i < axes.size(); ++i) {
    const int axis = normalize_axis("permute", axes[i], x.shape());
    WEFT_CHECK(inverse[static_cast<size_t>(axis)] < 0, "permute: axis {} is named twice", axis);
    inverse[static_cast<size_t>(axis)] = static_cast<int>(i);
    order.push_back(axis);
    shape.push_back(x.shape()[axis]);
    if (x.shape()[axis] == 1) continue;
    moves = moves || axis < last;
    last = axis;
  }
  if (!moves) return viewed("permute", x, shape, at);
  Tensor y = empty(shape, x.options());
  WEFT_LAUNCH(x, permute(y, x, order));
  return record(
      "permute", y, {x},
      [inverse, old = x.shape()](const Tensor& dy) -> Grads {
        Tensor dx = empty(old, dy.options());
        WEFT_LAUNCH(dy, permute(dx, dy, inverse));
        return {dx};
      },
      at);
}

Tensor transpose(const Tensor& x, int axis0, int axis1, Location at) {
  axis0 = normalize_axis("transpose", axis0, x.shape());
  axis1 = normalize_axis("transpose", axis1, x.shape());
  std::vector<int> axes;
  for (int axis = 0; axis < x.rank(); ++axis) axes.push_back(axis == axis0 ? axis1 : (axis == axis1 ? axis0 : axis));
  return permute(x, axes, at);
}

Tensor slice(const Tensor& x, int axis, int64_t begin, int64_t end, int64_t step, Location at) {
  axis = normalize_axis("slice", axis, x.shape());
  const int64_t size = x.shape()[axis];
  WEFT_CHECK(step >= 1, "slice: the step must be at least 1, got {}; flip reverses an axis", step);
  const int64_t given_begin = begin, given_end = end;
  if (begin < 0) begin += size;
  if (end < 0) end += size;
  WEFT_CHECK(0 <= begin && begin <= end && end <= size, "slice: [{}, {}) is out of range for axis {} of {}", given_begin, given_end, axis,
             x);
  Tensor y = piece(x, axis, begin, end, step);
  return record(
      "slice", y, {x},
      [axis, begin, step, old = x.shape()](const Tensor& dy) -> Grads {
        Tensor dx = empty(old, dy.options());
        WEFT_LAUNCH(dy, slice_backward(dx, dy, axis, begin, step));
        return {dx};
      },
      at);
}

Tensor select(const Tensor& x, int axis, int64_t index, Location at) {
  axis = normalize_axis("select", axis, x.shape());
  const int64_t size = x.shape()[axis];
  WEFT_CHECK(-size <= index && index < size, "select: index {} is out of range for axis {} of {}", index, axis, x);
  if (index < 0) index += size;
  Shape shape = x.shape();
  shape.erase(axis);
  return record(
      "select", piece(x, axis, index, index + 1).viewed_as(shape), {x},
      [axis, index, old = x.shape()](const Tensor& dy) -> Grads {
        Tensor dx = empty(old, dy.options());
        WEFT_LAUNCH(dy, slice_backward(dx, dy.viewed_as(with_size(old, axis, 1)), axis, index, 1));
        return {dx};
      },
      at);
}

Tensor concat(const std::vector<Tensor>& xs, int axis, Location at) {
  WEFT_CHECK(!xs.empty(), "concat: expected at least one tensor");
  for (size_t i = 0; i < xs.size(); ++i) WEFT_CHECK(xs[i].defined(), "concat: tensor {} of {} is undefined", i, xs.size());
  axis = normalize_axis("concat", axis, xs[0].shape());
  int64_t total = 0;
  std::vector<int64_t> sizes;
  for (const Tensor& x : xs) {
    WEFT_CHECK(x.dtype() == xs[0].dtype() && x.device() == xs[0].device(), "concat: dtypes or devices differ: {} and {}", xs[0], x);
    WEFT_CHECK(x.rank() == xs[0].rank() && with_size(x.shape(), axis, 0) == with_size(xs[0].shape(), axis, 0),
               "concat: shapes {} and {} differ outside axis {}", xs[0].shape(), x.shape(), axis);
    sizes.push_back(x.shape()[axis]);
    total += sizes.back();
  }
  Tensor y = empty(with_size(xs[0].shape(), axis, total), xs[0].options());
  WEFT_LAUNCH(y, concat(y, xs, axis));
  std::vector<bool> wanted;
  for (const Tensor& x : xs) wanted.push_back(requires_grad(x));
  return record(
      "concat", y, xs,
      [sizes, wanted, axis](const Tensor& dy) -> Grads {
        Grads dxs(sizes.size());
        int64_t begin = 0;
        for (size_t i = 0; i < sizes.size(); ++i) {
          if (wanted[i]) dxs[i] = piece(dy, axis, begin, begin + sizes[i]);
          begin += sizes[i];
        }
        return dxs;
      },
      at);
}

Tensor stack(const std::vector<Tensor>& xs, int axis, Location at) {
  WEFT_CHECK(!xs.empty(), "stack: expected at least one tensor");
  std::vector<Tensor> rows;
  for (const Tensor& x : xs) {
    WEFT_CHECK(x.shape() == xs[0].shape(), "stack: shapes {} and {} differ", xs[0].shape(), x.shape());
    rows.push_back(unsqueeze(x, axis, at));
  }
  return concat(rows, axis, at);
}

std::vector<Tensor> split(const Tensor& x, const std::vector<int64_t>& sizes, int axis, Location at) {
  axis = normalize_axis("split", axis, x.shape());
  int64_t total = 0;
  for (int64_t size : sizes) {
    WEFT_CHECK(size >= 0, "split: sizes must not be negative, got {}", size);
    total += size;
  }
  WEFT_CHECK(total == x.shape()[axis], "split: the pieces add up to {}, axis {} of {} has {}", total, axis, x, x.shape()[axis]);
  std::vector<Tensor> ys;
  int64_t begin = 0;
  for (int64_t size : sizes) {
    ys.push_back(piece(x, axis, begin, begin + size));
    begin += size;
  }
  // One backward for all pieces: one concat instead of a padded tensor for each.
  return record_many(
      "split", ys, {x},
      [sizes, axis, old = x.shape(), options = x.options()](std::span<const Tensor> dys) -> Grads {
        std::vector<Tensor> pieces;
        for (size_t i = 0; i < dys.size(); ++i)
          pieces.push_back(dys[i].defined() ? dys[i] : zeros(with_size(old, axis, sizes[i]), options));
        Tensor dx = empty(old, options);
        WEFT_LAUNCH(dx, concat(dx, pieces, axis));
        return {dx};
      },
      at);
}

Tensor pad(const Tensor& x, int axis, int64_t before, int64_t after, double value, Location at) {
  axis = normalize_axis("pad", axis, x.shape());
  const int64_t size = x.shape()[axis];
  WEFT_CHECK(size + before + after >= 0, "pad: cropping {} and {} leaves nothing of axis {} of {}", -before, -after, axis, x);
  Tensor y = empty(with_size(x.shape(), axis, size + before + after), x.options());
  WEFT_LAUNCH(x, pad(y, x, axis, before, value));
  return record(
      "pad", y, {x},
      [axis, before, old = x.shape()](const Tensor& dy) -> Grads {
        Tensor dx = empty(old, dy.options());
        WEFT_LAUNCH(dy, pad(dx, dy, axis, -before, 0));
        return {dx};
      },
      at, std::isinf(value) ? Infinities::asked_for : Infinities::anomaly);
}

Tensor flip(const Tensor& x, int axis, Location at) {
  axis = normalize_axis("flip", axis, x.shape());
  Tensor y = empty_like(x);
  WEFT_LAUNCH(x, flip(y, x, axis));
  return record(
      "flip", y, {x},
      [axis](const Tensor& dy) -> Grads {
        Tensor dx = empty_like(dy);
        WEFT_LAUNCH(dy, flip(dx, dy, axis));
        return {dx};
      },
      at);
}

Tensor roll(const Tensor& x, int axis, int64_t shift, Location at) {
  axis = normalize_axis("roll", axis, x.shape());
  Tensor y = empty_like(x);
  WEFT_LAUNCH(x, roll(y, x, axis, shift));
  return record(
      "roll", y, {x},
      [axis, shift](const Tensor& dy) -> Grads {
        Tensor dx = empty_like(dy);
        WEFT_LAUNCH(dy, roll(dx, dy, axis, -shift));
        return {dx};
      },
      at);
}

Tensor repeat(const Tensor& x, const std::vector<int64_t>& counts, Location at) {
  WEFT_CHECK(static_cast<int>(counts.size()) == x.rank(), "repeat: {} has {} axes, got {} counts", x, x.rank(), counts.size());
  Shape shape = x.shape();
  for (int axis = 0; axis < x.rank(); ++axis) {
    const int64_t count = counts[static_cast<size_t>(axis)];
    WEFT_CHECK(count >= 0, "repeat: counts must not be negative, got {}", count);
    shape[axis] *= count;
  }
  Tensor y = empty(shape, x.options());
  WEFT_LAUNCH(x, repeat(y, x));
  return record(
      "repeat", y, {x},
      [counts, old = x.shape()](const Tensor& dy) -> Grads {
        if (dy.numel() == 0) return {zeros(old, dy.options())};
        Tensor dx = dy;
        int64_t outer = 1;  // elements in front of the axis
        for (int axis = 0; axis < old.rank(); ++axis) {
          const int64_t count = counts[static_cast<size_t>(axis)];
          if (count != 1) {
            const int64_t inner = dx.numel() / (outer * count);
            Tensor summed = empty({outer, inner}, dy.options());
            WEFT_LAUNCH(dy, sum(summed, dx.viewed_as({outer, count, inner}), AxisSet{2}));
            dx = summed;
          }
          outer *= old[axis];
        }
        return {dx.viewed_as(old)};
      },
      at);
}

Tensor repeat_interleave(const Tensor& x, int64_t count, int axis, Location at) {
  axis = normalize_axis("repeat_interleave", axis, x.shape());
  WEFT_CHECK(count >= 0, "repeat_interleave: the count must not be negative, got {}", count);
  int64_t inner = 1;
  for (int i = axis + 1; i < x.rank(); ++i) inner *= x.shape()[i];
  const int64_t outer = inner == 0 ? 0 : x.numel() / inner;
  Tensor y = empty(with_size(x.shape(), axis, count * x.shape()[axis]), x.options());
  Tensor repeated = y.viewed_as({outer, count, inner});
  WEFT_LAUNCH(x, broadcast_to(repeated, x.viewed_as({outer, 1, inner})));
  return record(
      "repeat_interleave", y, {x},
      [outer, count, inner, old = x.shape()](const Tensor& dy) -> Grads {
        Tensor dx = empty(old, dy.options());
        Tensor summed = dx.viewed_as({outer, inner});
        WEFT_LAUNCH(dy, sum(summed, dy.viewed_as({outer, count, inner}), AxisSet{2}));
        return {dx};
      },
      at);
}

Tensor broadcast_to(const Tensor& x, const Shape& shape, Location at) {
  WEFT_CHECK(broadcasts_to(x.shape(), shape), "broadcast_to: {} does not stretch to {}", x, shape);
  Tensor y = empty(shape, x.options());
  WEFT_LAUNCH(x, broadcast_to(y, x));
  return record(
      "broadcast_to", y, {x}, [old = x.shape()](const Tensor& dy) -> Grads { return {sum_to(dy, old)}; }, at);
}

}  // namespace weft
