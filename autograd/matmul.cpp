// Matrix products and the linear layer built on them.
#include "weft/autograd/check.h"
#include "weft/autograd/ops.h"
#include "weft/core/kernels.h"

namespace weft {
namespace {

Shape batch_of(const Tensor& x) { return Shape(std::span(x.shape().begin(), static_cast<size_t>(x.rank() - 2))); }

// The elements of x [.., N, K] as one tall matrix.
Tensor tall(const Tensor& x) { return x.viewed_as({x.size(-1) == 0 ? 0 : x.numel() / x.size(-1), x.size(-1)}); }

// A product of (batches of) matrices, outside the graph.
struct Product {
  Tensor a, b;
  MatmulOptions options;

  Shape batch() const { return broadcast_shapes("matmul", batch_of(a), batch_of(b)); }
  int64_t rows() const { return a.size(options.transpose_a ? -1 : -2); }
  int64_t inner() const { return a.size(options.transpose_a ? -2 : -1); }
  int64_t columns() const { return b.size(options.transpose_b ? -2 : -1); }

  Tensor allocate(Shape axes) const {
    axes.push_back(rows());
    axes.push_back(columns());
    return empty(axes, {.dtype = a.dtype(), .device = a.device()});
  }
  void launch(Tensor& y, bool accumulate) const {
    const auto [transpose_a, transpose_b, alpha] = options;
    WEFT_LAUNCH(y, matmul(y, a, b, transpose_a, transpose_b, alpha, accumulate));
  }
  Tensor value() const {
    Tensor y = allocate(batch());
    launch(y, false);
    return y;
  }
};

// The number of entries of x [.., axes that stay] in front of its last `kept` axes, and one of them; a single entry serves all.
int64_t entries(const Shape& shape, int kept) {
  int64_t count = 1;
  for (int axis = 0; axis < shape.rank() - kept; ++axis) count *= shape[axis];
  return count;
}
Tensor entry(const Tensor& x, int kept, int64_t i) {
  kept = std::min(kept, x.rank());
  const int64_t count = entries(x.shape(), kept), at = count == 1 ? 0 : i;
  const Shape rest(std::span(x.shape().end() - kept, static_cast<size_t>(kept)));
  Shape stacked = rest;
  stacked.insert(0, count);
  return x.viewed_as(stacked).rows(at, at + 1).viewed_as(rest);
}

// The product summed over the batch axes that `shape` lacks: the gradient of an operand of that shape. Where it can, the sum goes into the
// products, so that nothing larger than the result is stored.
Tensor summed_to(const Shape& shape, const Product& p) {
  constexpr int64_t small = int64_t{1} << 14;  // multiplications that are not worth a launch of their own
  const Shape batch = p.batch();
  const int own_rank = shape.rank() - 2;
  int kept = 0;  // axes at the end of the batch that `shape` has in full
  while (kept < std::min(own_rank, batch.rank()) && shape.back(kept + 2) == batch.back(kept)) ++kept;
  if (kept == batch.rank() && kept == own_rank) return p.value();

  const int64_t count = entries(batch, kept), each = p.rows() * p.inner() * p.columns() * (count == 0 ? 0 : batch.numel() / count);
  const auto counts_or_one = [&](const Tensor& x) {
    const int64_t n = entries(x.shape(), kept + 2);
    return n == count || n == 1;
  };
  const bool only_leading = entries(shape, kept + 2) == 1 && counts_or_one(p.a) && counts_or_one(p.b);
  if (only_leading && kept == 0 && batch_of(p.a) == batch && batch_of(p.b) == batch && p.options.transpose_a && !p.options.transpose_b) {
    return Product{tall(p.a), tall(p.b), p.options}.value().viewed_as(shape);  // the batch is more rows to sum over
  }
  if (!only_leading || each < small) return sum_to(p.value(), shape);
  Tensor y;
  for (int64_t i = 0; i < count; ++i) {
    const Product one{entry(p.a, kept + 2, i), entry(p.b, kept + 2, i), p.options};
    if (i == 0) y = one.allocate(one.batch());
    one.launch(y, i > 0);
  }
  return y.viewed_as(shape);
}

void check_pair(const char* op, const Tensor& a, const Tensor& b) {
  check_float(op, a);
  WEFT_CHECK(b.defined() && a.dtype() == b.dtype(), "{}: dtypes differ: {} and {}; convert one with to(x, dtype)", op, a, b);
  WEFT_CHECK(a.device() == b.device(), "{}: devices differ: {} and {}; move one with to(x, device)", op, a, b);
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b, MatmulOptions options, Location at) {
  check_pair("matmul", a, b);
  WEFT_CHECK(a.rank() >= 2 && b.rank() >= 2, "matmul: expected at least 2 dimensions, got {} and {}; use unsqueeze for vectors", a, b);
  const int64_t inner_a = a.size(options.transpose_a ? -2 : -1), inner_b = b.size(options.transpose_b ? -1 : -2);
  WEFT_CHECK(inner_a == inner_b, "matmul: inner dimensions differ: a is {}{} ({}), b is {}{} ({})", a.shape(),
             options.transpose_a ? " transposed" : "", inner_a, b.shape(), options.transpose_b ? " transposed" : "", inner_b);
  Tensor y = Product{detach(a), detach(b), options}.value();
  return record(
      "matmul", y, {a, b},
      [a = requires_grad(b) ? detach(a) : Tensor(), b = requires_grad(a) ? detach(b) : Tensor(), shape_a = a.shape(), shape_b = b.shape(),
       options](const Tensor& dy) -> Grads {
        const auto [ta, tb, alpha] = options;
        Tensor da, db;
        if (b.defined()) {  // d op(a) = alpha * dy op(b)^T
          da = summed_to(shape_a, ta ? Product{b, dy, {tb, true, alpha}} : Product{dy, b, {false, !tb, alpha}});
        }
        if (a.defined()) {  // d op(b) = alpha * op(a)^T dy
          db = summed_to(shape_b, tb ? Product{dy, a, {true, ta, alpha}} : Product{a, dy, {!ta, false, alpha}});
        }
        return {da, db};
      },
      at);
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Location at) {
  check_pair("linear", x, weight);
  WEFT_CHECK(x.rank() >= 1, "linear: expected x with at least 1 dimension, got a scalar");
  WEFT_CHECK(weight.rank() == 2 && x.size(-1) == weight.size(1), "linear: x is {}, so weight should be [out, {}], got {}", x, x.size(-1),
             weight);
  const int64_t in = weight.size(1), out = weight.size(0);
  if (bias.defined()) {
    check_pair("linear", x, bias);
    WEFT_CHECK(bias.shape() == Shape{out}, "linear: weight is {}, so bias should be [{}], got {}", weight, out, bias);
  }
  const int64_t rows = entries(x.shape(), 1);
  const Tensor x_rows = x.viewed_as({rows, in}), w = detach(weight);
  Shape shape = x.shape();
  shape[x.rank() - 1] = out;
  Tensor y = empty(shape, {.dtype = x.dtype(), .device = x.device()});
  Tensor y_rows = y.viewed_as({rows, out});
  if (bias.defined()) WEFT_LAUNCH(y, broadcast_to(y_rows, bias));
  WEFT_LAUNCH(y, matmul(y_rows, x_rows, w, false, true, 1, bias.defined()));

  return record(
      "linear", y, bias.defined() ? std::vector<Tensor>{x, weight, bias} : std::vector<Tensor>{x, weight},
      [x_rows = requires_grad(weight) ? x_rows : Tensor(), w = requires_grad(x) ? w : Tensor(), x_shape = x.shape(), rows, out,
       has_bias = bias.defined(), dbias_wanted = bias.defined() && requires_grad(bias)](const Tensor& dy) -> Grads {
        const TensorOptions like{.dtype = dy.dtype(), .device = dy.device()};
        const Tensor dy_rows = dy.viewed_as({rows, out});
        Tensor dx, dweight, dbias;
        if (w.defined()) {  // dx = dy weight
          dx = empty(x_shape, like);
          Tensor dx_rows = dx.viewed_as({rows, w.size(1)});
          WEFT_LAUNCH(dy, matmul(dx_rows, dy_rows, w, false, false, 1, false));
        }
        if (x_rows.defined()) {  // dweight = dy^T x
          dweight = empty({out, x_rows.size(1)}, like);
          WEFT_LAUNCH(dy, matmul(dweight, dy_rows, x_rows, true, false, 1, false));
        }
        if (dbias_wanted) {
          dbias = empty({out}, like);
          WEFT_LAUNCH(dy, sum(dbias, dy_rows, AxisSet{1}));
        }
        return has_bias ? Grads{dx, dweight, dbias} : Grads{dx, dweight};
      },
      at);
}

}  // namespace weft
