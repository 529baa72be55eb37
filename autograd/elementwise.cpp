// Elementwise ops: the rows of core/elementwise.def, and dtype, masks, dropout and gated units.
#include <cmath>

#include "weft/autograd/check.h"
#include "weft/autograd/ops.h"
#include "weft/core/functors.h"
#include "weft/core/kernels.h"

namespace weft {
namespace {

void check_bool(const char* op, const Tensor& mask) {
  WEFT_CHECK(mask.defined() && mask.dtype() == DType::boolean, "{}: expected a bool mask, got {}", op, mask);
}

/// The tensor if a backward reads it. What is captured is what the graph keeps in memory.
Tensor keep_if(bool is_read, const Tensor& x) { return is_read ? x : Tensor(); }

/// Undoes broadcasting: the gradient of an operand of shape `shape` from the one at the broadcast shape.
Tensor unbroadcast(const Tensor& gradient, const Shape& shape) { return gradient.shape() == shape ? gradient : sum_to(gradient, shape); }

}  // namespace

// ---- the table --------------------------------------------------------------------------------------------------------------------

namespace {

// `forward(y, x)` and `backward(dx, dy, x, y)` launch the kernels of the row.
template <class Formula, class Forward, class Backward>
Tensor unary(const char* op, const Tensor& x, const Location& at, Forward forward, Backward backward) {
  check_float(op, x);
  Tensor y = empty_like(x);
  forward(y, x);
  return record(
      op, y, {x},
      [backward, x = keep_if(Formula::slope_reads_x, x), y = keep_if(Formula::slope_reads_y, y)](const Tensor& dy) -> Grads {
        if (Formula::slope_is_one) return {dy};
        Tensor dx = empty_like(dy);
        backward(dx, dy, x, y);
        return {dx};
      },
      at);
}

// The slopes come out at the broadcast shape; unbroadcast sums them to the operand's.
template <class Formula, class Forward, class BackwardA, class BackwardB>
Tensor binary(const char* op, const Tensor& a, const Tensor& b, const Location& at, Forward forward, BackwardA backward_a,
              BackwardB backward_b) {
  check_alike(op, "a", a, "b", b);
  check_float(op, a);
  Tensor y = empty(broadcast_shapes(op, a.shape(), b.shape()), a.options());
  forward(y, a, b);
  const bool da_wanted = requires_grad(a), db_wanted = requires_grad(b);
  const bool a_read = (da_wanted && Formula::slope_a_reads_a) || (db_wanted && Formula::slope_b_reads_a);
  const bool b_read = (da_wanted && Formula::slope_a_reads_b) || (db_wanted && Formula::slope_b_reads_b);
  const bool y_read = (da_wanted && Formula::slope_a_reads_y) || (db_wanted && Formula::slope_b_reads_y);
  return record(
      op, y, {a, b},
      [=, shape_a = a.shape(), shape_b = b.shape(), a = keep_if(a_read, a), b = keep_if(b_read, b),
       y = keep_if(y_read, y)](const Tensor& dy) -> Grads {
        Tensor da, db;
        if (da_wanted) {
          da = Formula::slope_a_is_one ? dy : empty_like(dy);
          if (!Formula::slope_a_is_one) backward_a(da, dy, a, b, y);
          da = unbroadcast(da, shape_a);
        }
        if (db_wanted) {
          db = Formula::slope_b_is_one ? dy : empty_like(dy);
          if (!Formula::slope_b_is_one) backward_b(db, dy, a, b, y);
          db = unbroadcast(db, shape_b);
        }
        return {da, db};
      },
      at);
}

template <class Forward>
Tensor compare(const char* op, const Tensor& a, const Tensor& b, Forward forward) {
  check_alike(op, "a", a, "b", b);
  WEFT_CHECK(size_of(a.dtype()) != 2 || a.device().is_cuda(), "{}: {} is a storage type on the CPU; convert with to(x, DType::float32)", op,
             a.dtype());
  Tensor y = empty(broadcast_shapes(op, a.shape(), b.shape()), {.dtype = DType::boolean, .device = a.device()});
  forward(y, a, b);
  return y;
}

}  // namespace

// A row's kernel as a function that picks the device of its output.
#define WEFT_ROW(kernel) [=](Tensor& out, const auto&... in) { WEFT_LAUNCH(out, kernel(out, in...)); }
#define WEFT_ROW_P(kernel) [=](Tensor& out, const auto&... in) { WEFT_LAUNCH(out, kernel(out, in..., p)); }

#define UNARY(name, ...)                                                                             \
  Tensor name(const Tensor& x, Location at) {                                                        \
    return unary<formulas::name##_formula>(#name, x, at, WEFT_ROW(name), WEFT_ROW(name##_backward)); \
  }
#define UNARY_P(name, ...)                                                                               \
  Tensor name(const Tensor& x, double p, Location at) {                                                  \
    return unary<formulas::name##_formula>(#name, x, at, WEFT_ROW_P(name), WEFT_ROW_P(name##_backward)); \
  }
#define BINARY(name, ...)                                                                                                               \
  Tensor name(const Tensor& a, const Tensor& b, Location at) {                                                                          \
    return binary<formulas::name##_formula>(#name, a, b, at, WEFT_ROW(name), WEFT_ROW(name##_backward_a), WEFT_ROW(name##_backward_b)); \
  }
#define COMPARE(name, ...) \
  Tensor name(const Tensor& a, const Tensor& b) { return compare(#name, a, b, WEFT_ROW(name)); }
#include "weft/core/elementwise.def"
#undef UNARY
#undef UNARY_P
#undef BINARY
#undef COMPARE

Tensor clamp(const Tensor& x, double low, double high, Location at) {
  WEFT_CHECK(low <= high, "clamp: expected low <= high, got [{}, {}]", low, high);
  return clamp_max(clamp_min(x, low, at), high, at);
}

// ---- dtype and device -------------------------------------------------------------------------------------------------------------

Tensor to(const Tensor& x, DType dtype, Location at) {
  WEFT_CHECK(x.defined(), "to: the tensor is undefined");
  if (x.dtype() == dtype) return x;
  Tensor y = empty(x.shape(), {.dtype = dtype, .device = x.device()});
  WEFT_LAUNCH(x, convert(y, x));
  if (!is_float(dtype) || !is_float(x.dtype())) return y;
  return record(
      "to", y, {x}, [from = x.dtype()](const Tensor& dy) -> Grads { return {to(dy, from)}; }, at);
}

Tensor to(const Tensor& x, Device device, Location at) {
  WEFT_CHECK(x.defined(), "to: the tensor is undefined");
  if (x.device() == device) return x;
  Tensor y = empty(x.shape(), {.dtype = x.dtype(), .device = device});
  y.copy_from(x);
  return record(
      "to", y, {x}, [from = x.device()](const Tensor& dy) -> Grads { return {to(dy, from)}; }, at);
}

// ---- masks ------------------------------------------------------------------------------------------------------------------------

namespace {

template <class Forward>
Tensor combine_masks(const char* op, const Tensor& a, const Tensor& b, Forward forward) {
  check_bool(op, a);
  check_bool(op, b);
  check_same_device(op, "a", a, "b", b);
  Tensor y = empty(broadcast_shapes(op, a.shape(), b.shape()), {.dtype = DType::boolean, .device = a.device()});
  forward(y, a, b);
  return y;
}

}  // namespace

Tensor logical_and(const Tensor& a, const Tensor& b) { return combine_masks("logical_and", a, b, WEFT_ROW(logical_and)); }
Tensor logical_or(const Tensor& a, const Tensor& b) { return combine_masks("logical_or", a, b, WEFT_ROW(logical_or)); }
Tensor logical_not(const Tensor& x) {
  check_bool("logical_not", x);
  Tensor y = empty_like(x);
  WEFT_LAUNCH(x, logical_not(y, x));
  return y;
}

Tensor where(const Tensor& mask, const Tensor& a, const Tensor& b, Location at) {
  check_bool("where", mask);
  check_alike("where", "a", a, "b", b);
  check_same_device("where", "the mask", mask, "a", a);
  const Shape shape = broadcast_shapes("where", mask.shape(), broadcast_shapes("where", a.shape(), b.shape()));
  Tensor y = empty(shape, a.options());
  WEFT_LAUNCH(a, where(y, mask, a, b));
  const bool wants_a = requires_grad(a), wants_b = requires_grad(b);
  return record(
      "where", y, {a, b},
      [=, shape_a = a.shape(), shape_b = b.shape()](const Tensor& dy) -> Grads {
        const Tensor zero = scalar(0, dy.options());
        Tensor da, db;
        if (wants_a) {
          da = empty_like(dy);
          WEFT_LAUNCH(dy, where(da, mask, dy, zero));
          da = unbroadcast(da, shape_a);
        }
        if (wants_b) {
          db = empty_like(dy);
          WEFT_LAUNCH(dy, where(db, mask, zero, dy));
          db = unbroadcast(db, shape_b);
        }
        return {da, db};
      },
      at);
}

Tensor masked_fill(const Tensor& x, const Tensor& mask, double value, Location at) {
  check_mask("masked_fill", mask, x);
  Tensor y = empty_like(x);
  WEFT_LAUNCH(x, masked_fill(y, x, mask, value));
  return record(
      "masked_fill", y, {x},
      [mask](const Tensor& dy) -> Grads {
        Tensor dx = empty_like(dy);
        WEFT_LAUNCH(dy, masked_fill(dx, dy, mask, 0));
        return {dx};
      },
      at, std::isinf(value) ? Infinities::asked_for : Infinities::anomaly);
}

// ---- dropout, gated units ---------------------------------------------------------------------------------------------------------

Tensor dropout(const Tensor& x, double p, RandomKey key, Location at) {
  check_float("dropout", x);
  WEFT_CHECK(p >= 0 && p <= 1, "dropout: the probability must be in [0, 1], got {}", p);
  if (p == 0) return x;
  Tensor y = empty_like(x);
  WEFT_LAUNCH(x, dropout(y, x, p, key));
  return record(
      "dropout", y, {x},
      [p, key](const Tensor& dy) -> Grads {  // the mask is drawn again
        Tensor dx = empty_like(dy);
        WEFT_LAUNCH(dy, dropout(dx, dy, p, key));
        return {dx};
      },
      at);
}

Tensor gated(const Tensor& h, Gate activation, Location at) {
  check_float("gated", h);
  WEFT_CHECK(h.rank() >= 1 && h.size(-1) % 2 == 0, "gated: the last axis is split into two halves, so its size must be even; got {}", h);
  Shape shape = h.shape();
  shape[shape.rank() - 1] /= 2;
  Tensor y = empty(shape, h.options());
  WEFT_LAUNCH(h, gated_activation(y, h, activation));
  return record(
      "gated", y, {h},
      [h, activation](const Tensor& dy) -> Grads {
        Tensor dh = empty_like(h);
        WEFT_LAUNCH(h, gated_activation_backward(dh, dy, h, activation));
        return {dh};
      },
      at);
}

}  // namespace weft
