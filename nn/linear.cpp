#include "weft/nn/linear.h"

#include <numeric>

#include "weft/core/kernels.h"

namespace weft {

Linear::Linear(const LinearOptions& options) {
  WEFT_CHECK(options.in >= 1 && options.out >= 1, "Linear: in and out must be at least 1, got in = {}, out = {}", options.in, options.out);
  weight = init::weight(options.init, options.out, options.in, options.std);
  if (options.bias) bias = init::bias(options.init, options.out, options.in);
}

std::vector<Tensor> Linear::blocks(const Tensor& x, const std::vector<int64_t>& sizes, Location at) const {
  const int64_t in = weight.size(1), out = weight.size(0);
  WEFT_CHECK(x.rank() >= 1 && x.size(-1) == in, "Linear: the weight is {}, so the last axis of x must be {}, got {}", weight, in, x);
  WEFT_CHECK(x.dtype() == weight.dtype(), "Linear: x is {}, the weight {}", x, weight);
  WEFT_CHECK(std::accumulate(sizes.begin(), sizes.end(), int64_t{0}) == out, "Linear: the blocks must add up to the {} outputs", out);

  const Tensor w = detach(weight);
  const Tensor rows = detach(x).viewed_as({x.numel() / in, in});
  const TensorOptions like{.dtype = x.dtype(), .device = x.device()};
  std::vector<Tensor> ys;
  int64_t begin = 0;
  for (int64_t size : sizes) {
    Shape shape = x.shape();
    shape[shape.rank() - 1] = size;
    Tensor& y = ys.emplace_back(empty(shape, like));
    Tensor y_rows = y.viewed_as({rows.size(0), size});
    WEFT_LAUNCH(x, matmul(y_rows, rows, w.rows(begin, begin + size), false, true, 1, false));
    if (bias.defined()) WEFT_LAUNCH(x, add_bias(y_rows, detach(bias).rows(begin, begin + size)));
    begin += size;
  }

  return record_many(
      "linear", ys, {x, weight, bias},
      [rows, w, sizes, shape = x.shape(), wants_dx = requires_grad(x), wants_dw = requires_grad(weight),
       wants_dbias = bias.defined() && requires_grad(bias)](std::span<const Tensor> dys) -> Grads {
        Tensor dx, dw, dbias;
        if (wants_dx) dx = empty_like(rows);
        if (wants_dw) dw = empty_like(w);
        if (wants_dbias) dbias = empty({w.size(0)}, {.dtype = w.dtype(), .device = w.device()});
        bool dx_started = false;
        int64_t first = 0;
        for (size_t i = 0; i < sizes.size(); ++i) {
          const int64_t last = first + sizes[i];
          Tensor dw_rows = wants_dw ? dw.rows(first, last) : Tensor();
          Tensor dbias_rows = wants_dbias ? dbias.rows(first, last) : Tensor();
          if (dys[i].defined()) {
            const Tensor dy = dys[i].viewed_as({rows.size(0), sizes[i]});
            if (wants_dx) WEFT_LAUNCH(dy, matmul(dx, dy, w.rows(first, last), false, false, 1, dx_started));  // dx = dy w
            if (wants_dw) WEFT_LAUNCH(dy, matmul(dw_rows, dy, rows, true, false, 1, false));                  // dw = dy^T x
            if (wants_dbias) WEFT_LAUNCH(dy, sum(dbias_rows, dy, AxisSet{1}));
            dx_started = true;
          } else {
            if (wants_dw) WEFT_LAUNCH(dw, fill(dw_rows, 0));
            if (wants_dbias) WEFT_LAUNCH(dbias, fill(dbias_rows, 0));
          }
          first = last;
        }
        return {wants_dx ? dx.viewed_as(shape) : dx, dw, dbias};
      },
      at);
}

}  // namespace weft
