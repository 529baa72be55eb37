// Matrix products and the linear layer built on them.
#include "weft/autograd/ops.h"
#include "weft/core/kernels.h"

namespace weft {
namespace {

Shape batch_shape(const Shape& shape) { return Shape(std::span(shape.begin(), static_cast<size_t>(shape.rank() - 2))); }

Shape with_matrix(Shape batch, int64_t rows, int64_t columns) {
  batch.push_back(rows);
  batch.push_back(columns);
  return batch;
}

// alpha * op(a) op(b), outside the graph.
Tensor product(const Tensor& a, const Tensor& b, MatmulOptions options) {
  const Shape batch = broadcast_shapes("matmul", batch_shape(a.shape()), batch_shape(b.shape()));
  Tensor y = empty(with_matrix(batch, a.size(options.transpose_a ? -1 : -2), b.size(options.transpose_b ? -2 : -1)),
                   {.dtype = a.dtype(), .device = a.device()});
  WEFT_LAUNCH(y, matmul(y, a, b, options.transpose_a, options.transpose_b, options.alpha, false));
  return y;
}

// All matrices of x [.., N, K] as one tall matrix [.. * N, K].
Tensor tall(const Tensor& x) {
  const int64_t columns = x.size(-1);
  return x.viewed_as({columns == 0 ? 0 : x.numel() / columns, columns});
}

void check_pair(const char* op, const Tensor& a, const Tensor& b) {
  WEFT_CHECK(a.dtype() == b.dtype(), "{}: dtypes differ: {} and {}; convert one with to(x, dtype)", op, a, b);
  WEFT_CHECK(a.device() == b.device(), "{}: devices differ: {} and {}; move one with to(x, device)", op, a.device(), b.device());
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b, MatmulOptions options, Location at) {
  WEFT_CHECK(a.rank() >= 2 && b.rank() >= 2, "matmul: expected at least 2 dimensions, got {} and {}; use unsqueeze for vectors", a, b);
  check_pair("matmul", a, b);
  const int64_t inner_a = a.size(options.transpose_a ? -2 : -1), inner_b = b.size(options.transpose_b ? -1 : -2);
  WEFT_CHECK(inner_a == inner_b, "matmul: inner dimensions differ: a is {}{} ({}), b is {}{} ({})", a.shape(),
             options.transpose_a ? " transposed" : "", inner_a, b.shape(), options.transpose_b ? " transposed" : "", inner_b);
  Tensor y = product(a, b, options);
  const bool da_wanted = requires_grad(a), db_wanted = requires_grad(b);
  const Shape shape_a = a.shape(), shape_b = b.shape();
  return record(
      "matmul", y, {a, b},
      [a = db_wanted ? detach(a) : Tensor(), b = da_wanted ? detach(b) : Tensor(), shape_a, shape_b, options](const Tensor& dy) -> Grads {
        const auto [ta, tb, alpha] = options;
        Tensor da, db;
        if (b.defined()) {  // d op(a) = alpha * dy op(b)^T
          da = ta ? product(b, dy, {tb, true, alpha}) : product(dy, b, {false, !tb, alpha});
          da = sum_to(da, shape_a);
        }
        if (a.defined()) {  // d op(b) = alpha * op(a)^T dy
          const bool one_b = batch_shape(shape_b).numel() == 1 && batch_shape(shape_a) == batch_shape(dy.shape());
          if (one_b && !ta) {  // one tall product instead of a batch of them and a sum
            db = tb ? product(tall(dy), tall(a), {true, false, alpha}) : product(tall(a), tall(dy), {true, false, alpha});
            db = db.viewed_as(shape_b);
          } else {
            db = tb ? product(dy, a, {true, ta, alpha}) : product(a, dy, {!ta, false, alpha});
            db = sum_to(db, shape_b);
          }
        }
        return {da, db};
      },
      at);
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Location at) {
  WEFT_CHECK(x.rank() >= 1 && weight.rank() == 2 && x.size(-1) == weight.size(1), "linear: x is {}, so weight should be [out, {}], got {}",
             x, x.rank() >= 1 ? x.size(-1) : 0, weight);
  check_pair("linear", x, weight);
  const int64_t in = weight.size(1), out = weight.size(0);
  if (bias.defined()) {
    check_pair("linear", x, bias);
    WEFT_CHECK(bias.shape() == Shape{out}, "linear: weight is {}, so bias should be [{}], got {}", weight, out, bias);
  }
  Shape shape = x.shape();
  shape[x.rank() - 1] = 1;
  const int64_t rows = shape.numel();
  shape[x.rank() - 1] = out;
  Tensor y = empty(shape, {.dtype = x.dtype(), .device = x.device()});
  Tensor y_rows = y.viewed_as({rows, out});
  WEFT_LAUNCH(y, matmul(y_rows, x.viewed_as({rows, in}), weight, false, true, 1, false));
  if (bias.defined()) WEFT_LAUNCH(y, add_bias(y, bias));

  const bool dx_wanted = requires_grad(x), dweight_wanted = requires_grad(weight), dbias_wanted = bias.defined() && requires_grad(bias);
  return record(
      "linear", y, bias.defined() ? std::vector<Tensor>{x, weight, bias} : std::vector<Tensor>{x, weight},
      [x = dweight_wanted ? detach(x) : Tensor(), weight = dx_wanted ? detach(weight) : Tensor(), x_shape = x.shape(), rows, in, out,
       dbias_wanted, has_bias = bias.defined()](const Tensor& dy) -> Grads {
        const TensorOptions like{.dtype = dy.dtype(), .device = dy.device()};
        const Tensor dy_rows = dy.viewed_as({rows, out});
        Tensor dx, dweight, dbias;
        if (weight.defined()) {
          Tensor dx_rows = empty({rows, in}, like);
          WEFT_LAUNCH(dy, matmul(dx_rows, dy_rows, weight, false, false, 1, false));
          dx = dx_rows.viewed_as(x_shape);
        }
        if (x.defined()) {
          dweight = empty({out, in}, like);
          WEFT_LAUNCH(dy, matmul(dweight, dy_rows, x.viewed_as({rows, in}), true, false, 1, false));
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
