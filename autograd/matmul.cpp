// Matrix products and the linear layer built on them.
#include <algorithm>
#include <limits>

#include "weft/autograd/check.h"
#include "weft/autograd/ops.h"
#include "weft/core/kernels.h"

namespace weft {
namespace {

Shape batch_of(const Tensor& x) { return Shape(std::span(x.shape().begin(), static_cast<size_t>(x.rank() - 2))); }

// The elements of x [.., N, K] as one tall matrix.
Tensor tall(const Tensor& x) { return x.viewed_as({x.size(-1) == 0 ? 0 : x.numel() / x.size(-1), x.size(-1)}); }

// The number of entries of x in front of its last `kept` axes.
int64_t entries(const Shape& shape, int kept) {
  int64_t count = 1;
  for (int axis = 0; axis < shape.rank() - kept; ++axis) count *= shape[axis];
  return count;
}

bool batches_broadcast(const Tensor& a, const Tensor& b) {
  for (int axis = 3; axis <= std::min(a.rank(), b.rank()); ++axis) {
    if (a.size(-axis) != b.size(-axis) && a.size(-axis) != 1 && b.size(-axis) != 1) return false;
  }
  return true;
}

// The sizes of one product [rows, inner] x [inner, columns].
void check_sizes(const char* op, int64_t rows, int64_t inner, int64_t columns) {
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  WEFT_CHECK(rows <= most && inner <= most && columns <= most,
             "{}: a product of [{}, {}] and [{}, {}] is too large, BLAS takes sizes below 2^31; work on slices", op, rows, inner, inner,
             columns);
}

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
    return empty(axes, a.options());
  }
  void launch(Tensor& y, bool accumulate) const {
    const auto [transpose_a, transpose_b, alpha] = options;
    // Matrices that all meet the same b are one tall matrix to the kernel.
    check_sizes("matmul", entries(b.shape(), 2) == 1 && !transpose_a ? entries(a.shape(), 1) : rows(), inner(), columns());
    WEFT_LAUNCH(y, matmul(y, a, b, transpose_a, transpose_b, alpha, accumulate));
  }
  Tensor value() const {
    Tensor y = allocate(batch());
    launch(y, false);
    return y;
  }
};

// Entry i of x [.., axes that stay], of those in front of its last `kept` axes; a single entry serves all.
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

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b, MatmulOptions options, Location at) {
  check_float("matmul", a);
  check_alike("matmul", "a", a, "b", b);
  WEFT_CHECK(a.rank() >= 2 && b.rank() >= 2, "matmul: expected at least 2 dimensions, got {} and {}; use unsqueeze for vectors", a, b);
  const int64_t inner_a = a.size(options.transpose_a ? -2 : -1), inner_b = b.size(options.transpose_b ? -1 : -2);
  WEFT_CHECK(inner_a == inner_b, "matmul: inner dimensions differ: a is {}{} ({}), b is {}{} ({})", a.shape(),
             options.transpose_a ? " transposed" : "", inner_a, b.shape(), options.transpose_b ? " transposed" : "", inner_b);
  WEFT_CHECK(batches_broadcast(a, b), "matmul: the axes in front of the matrices do not broadcast: a is {}, b is {}", a.shape(), b.shape());
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

namespace {

void check_linear(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check_same_device(op, "x", x, "weight", weight);
  check_float(op, x);
  check_alike(op, "x", x, "weight", weight);
  WEFT_CHECK(x.rank() >= 1, "{}: expected x with at least 1 dimension, got a scalar", op);
  WEFT_CHECK(weight.rank() == 2 && x.size(-1) == weight.size(1), "{}: x is {}, so weight should be [out, {}], got {}", op, x, x.size(-1),
             weight);
  if (bias.defined()) {
    check_alike(op, "x", x, "bias", bias);
    WEFT_CHECK(bias.shape() == Shape{weight.size(0)}, "{}: weight is {}, so bias should be [{}], got {}", op, weight, weight.size(0), bias);
  }
  check_sizes(op, entries(x.shape(), 1), weight.size(1), weight.size(0));
}

// Records ys, the pieces of x weight^T + bias that blocks of rows of the weight make, each in memory of its own.
std::vector<Tensor> record_linear(const char* op, const std::vector<Tensor>& ys, const Tensor& x, const Tensor& weight, const Tensor& bias,
                                  const std::vector<int64_t>& sizes, const Location& at) {
  const int64_t rows = entries(x.shape(), 1);
  const Tensor x_rows = x.viewed_as({rows, weight.size(1)}), w = detach(weight);
  return record_many(
      op, ys, {x, weight, bias},
      [x_rows = requires_grad(weight) ? x_rows : Tensor(), w = requires_grad(x) ? w : Tensor(), x_shape = x.shape(),
       w_shape = weight.shape(), rows, sizes, dbias_wanted = bias.defined() && requires_grad(bias)](std::span<const Tensor> dys) -> Grads {
        const TensorOptions like = std::find_if(dys.begin(), dys.end(), [](const Tensor& dy) { return dy.defined(); })->options();
        Tensor dx, dweight, dbias;
        if (w.defined()) dx = empty(x_shape, like);
        if (x_rows.defined()) dweight = empty(w_shape, like);
        if (dbias_wanted) dbias = empty({w_shape[0]}, like);
        bool dx_started = false;
        int64_t first = 0;
        for (size_t i = 0; i < sizes.size(); ++i) {
          const int64_t last = first + sizes[i];
          Tensor dweight_rows = dweight.defined() ? dweight.rows(first, last) : Tensor();
          Tensor dbias_rows = dbias_wanted ? dbias.rows(first, last) : Tensor();
          if (dys[i].defined()) {
            const Tensor dy = dys[i].viewed_as({rows, sizes[i]});
            if (dx.defined()) {  // dx = dy weight
              Tensor dx_rows = dx.viewed_as({rows, w_shape[1]});
              WEFT_LAUNCH(dy, matmul(dx_rows, dy, w.rows(first, last), false, false, 1, dx_started));
              dx_started = true;
            }
            if (dweight.defined()) WEFT_LAUNCH(dy, matmul(dweight_rows, dy, x_rows, true, false, 1, false));  // dweight = dy^T x
            if (dbias_wanted) WEFT_LAUNCH(dy, sum(dbias_rows, dy, AxisSet{1}));
          } else {  // nobody used this piece
            if (dweight.defined()) WEFT_LAUNCH(dweight, fill(dweight_rows, 0));
            if (dbias_wanted) WEFT_LAUNCH(dbias, fill(dbias_rows, 0));
          }
          first = last;
        }
        return {dx, dweight, dbias};
      },
      at);
}

// Computes and records them.
std::vector<Tensor> linear_pieces(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias,
                                  const std::vector<int64_t>& sizes, const Location& at) {
  const int64_t rows = entries(x.shape(), 1);
  const Tensor x_rows = x.viewed_as({rows, weight.size(1)}), w = detach(weight);
  std::vector<Tensor> ys;
  int64_t begin = 0;
  for (int64_t size : sizes) {
    Shape shape = x.shape();
    shape[x.rank() - 1] = size;
    Tensor& y = ys.emplace_back(empty(shape, x.options()));
    Tensor y_rows = y.viewed_as({rows, size});
    if (bias.defined()) {
      WEFT_LAUNCH(y, linear(y_rows, x_rows, w.rows(begin, begin + size), bias.rows(begin, begin + size)));
    } else {
      WEFT_LAUNCH(y, matmul(y_rows, x_rows, w.rows(begin, begin + size), false, true, 1, false));
    }
    begin += size;
  }
  return record_linear(op, ys, x, weight, bias, sizes, at);
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Location at) {
  check_linear("linear", x, weight, bias);
  return linear_pieces("linear", x, weight, bias, {weight.size(0)}, at)[0];
}

Tensor linear_gelu_tanh(const Tensor& x, const Tensor& weight, const Tensor& bias, Location at) {
  WEFT_CHECK(bias.defined(), "linear_gelu_tanh: bias is undefined; use gelu_tanh(linear(x, weight)) without one");
  check_linear("linear_gelu_tanh", x, weight, bias);
  const bool recorded = grad_enabled() && (requires_grad(x) || requires_grad(weight) || requires_grad(bias));
  Shape shape = x.shape();
  shape[x.rank() - 1] = weight.size(0);
  Tensor y = empty(shape, x.options()), h = recorded ? empty_like(y) : Tensor();
  const int64_t rows = entries(x.shape(), 1), out = weight.size(0);
  Tensor y_rows = y.viewed_as({rows, out}), h_rows = recorded ? h.viewed_as({rows, out}) : Tensor();
  WEFT_LAUNCH(y, linear_gelu_tanh(y_rows, h_rows, x.viewed_as({rows, weight.size(1)}), weight, bias));
  // One kernel, and two nodes of the graph: backwards it is GELU, then the linear layer. Without a graph `record` still wants to see y.
  const Tensor linear = record_linear("linear_gelu_tanh", {recorded ? h : y}, x, weight, bias, {out}, at)[0];
  if (!recorded) return y;
  return record(
      "linear_gelu_tanh", y, {linear},
      [h](const Tensor& dy) -> Grads {
        Tensor dh = empty_like(dy);
        WEFT_LAUNCH(dy, gelu_tanh_backward(dh, dy, h, Tensor()));
        return {dh};
      },
      at);
}

std::vector<Tensor> linear_blocks(const Tensor& x, const Tensor& weight, const Tensor& bias, const std::vector<int64_t>& sizes,
                                  Location at) {
  check_linear("linear_blocks", x, weight, bias);
  int64_t total = 0;
  for (int64_t size : sizes) {
    WEFT_CHECK(size >= 0, "linear_blocks: sizes must not be negative, got {}", size);
    total += size;
  }
  WEFT_CHECK(total == weight.size(0), "linear_blocks: the blocks add up to {}, but weight is {}: they must add up to its {} rows", total,
             weight, weight.size(0));
  return linear_pieces("linear_blocks", x, weight, bias, sizes, at);
}

}  // namespace weft
