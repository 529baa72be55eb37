// Ops over int64 indices. Indices are checked here; kernels leave out those that are wrong, as CUDA tells of them later.
#include "weft/autograd/check.h"
#include "weft/autograd/ops.h"
#include "weft/core/kernels.h"

namespace weft {
namespace {

// Indices of what has `size` entries, which the error shows as `of`.
void check_index(const char* op, const Tensor& index, int64_t size, const std::string& of, Device device) {
  WEFT_CHECK(index.defined() && index.dtype() == DType::int64, "{}: indices must be int64, got {}", op, index);
  WEFT_CHECK(index.device() == device, "{}: the indices are on {}, the tensor is on {}; move one with to(x, device)", op, index.device(),
             device);
  WEFT_LAUNCH(index, check_range(index, size, op, of));
}

void check_index(const char* op, const Tensor& index, const Tensor& x, int axis) {
  check_index(op, index, x.shape()[axis], format("axis {} of {}", axis, x), x.device());
}

void check_lengths(const char* op, int64_t rows, int64_t columns) {
  WEFT_CHECK(rows >= 0 && columns >= 0, "{}: the sizes must not be negative, got {} and {}", op, rows, columns);
}

// The result of gathering `values` by `index` along axis: its backward puts the gradient back. The index is recorded as an input, so that
// a change of it in place is noticed.
Tensor recorded_gather(const char* op, Tensor values, const Tensor& x, const Tensor& index, int axis, const Location& at) {
  return record(
      op, std::move(values), {x, index},
      [index, axis, old = x.shape()](const Tensor& dy) -> Grads {
        Tensor dx = zeros(old, dy.options());
        WEFT_LAUNCH(dy, scatter_add(dx, dy, index, axis));
        return {dx, Tensor()};
      },
      at);
}

void check_same_but_axis(const char* op, const Tensor& x, const Tensor& index, int axis) {
  bool fits = x.rank() == index.rank();
  for (int i = 0; fits && i < x.rank(); ++i) fits = i == axis || x.shape()[i] == index.shape()[i];
  WEFT_CHECK(fits, "{}: x is {} and the index {}; they must agree outside axis {}", op, x, index, axis);
}

}  // namespace

Tensor gather(const Tensor& x, int axis, const Tensor& index, Location at) {
  axis = normalize_axis("gather", axis, x.shape());
  check_same_but_axis("gather", x, index, axis);
  check_index("gather", index, x, axis);
  Tensor y = empty(index.shape(), x.options());
  WEFT_LAUNCH(x, gather(y, x, index, axis));
  return recorded_gather("gather", y, x, index, axis, at);
}

Tensor scatter_add(const Tensor& x, int axis, const Tensor& index, const Tensor& src, Location at) {
  axis = normalize_axis("scatter_add", axis, x.shape());
  WEFT_CHECK(src.shape() == index.shape() && src.dtype() == x.dtype() && src.device() == x.device(),
             "scatter_add: the source is {}, the index {}, x {}; source and index need one shape, source and x one dtype", src, index, x);
  check_same_but_axis("scatter_add", x, index, axis);
  check_index("scatter_add", index, x, axis);
  Tensor y = clone(x);
  WEFT_LAUNCH(x, scatter_add(y, src, index, axis));
  return record(
      "scatter_add", y, {x, src, index},
      [index, axis, dsrc_wanted = requires_grad(src)](const Tensor& dy) -> Grads {
        Tensor dsrc;
        if (dsrc_wanted) {
          dsrc = empty(index.shape(), dy.options());
          WEFT_LAUNCH(dy, gather(dsrc, dy, index, axis));
        }
        return {dy, dsrc, Tensor()};
      },
      at);
}

Tensor index_select(const Tensor& x, int axis, const Tensor& index, Location at) {
  axis = normalize_axis("index_select", axis, x.shape());
  WEFT_CHECK(index.rank() == 1, "index_select: expected a list of indices, got {}", index);
  check_index("index_select", index, x, axis);
  Shape shape = x.shape();
  shape[axis] = index.numel();
  Tensor y = empty(shape, x.options());
  WEFT_LAUNCH(x, index_select(y, x, index, axis));
  return record(
      "index_select", y, {x, index},
      [index, axis, old = x.shape()](const Tensor& dy) -> Grads {
        Tensor dx = zeros(old, dy.options());
        WEFT_LAUNCH(dy, index_add(dx, dy, index, axis));
        return {dx, Tensor()};
      },
      at);
}

Tensor embedding(const Tensor& weight, const Tensor& ids, Location at) {
  WEFT_CHECK(weight.rank() == 2, "embedding: the table should be [vocab_size, dim], got {}", weight);
  check_index("embedding", ids, weight, 0);
  const int64_t dim = weight.size(1);
  Shape shape = ids.shape();
  shape.push_back(dim);
  Tensor y = empty(shape, weight.options());
  const Tensor list = ids.viewed_as({ids.numel()});
  WEFT_LAUNCH(weight, index_select(y, weight, list, 0));
  return record(
      "embedding", y, {weight, ids},
      [list, dim, old = weight.shape()](const Tensor& dy) -> Grads {
        Tensor dweight = zeros(old, dy.options());
        WEFT_LAUNCH(dy, index_add(dweight, dy.viewed_as({list.numel(), dim}), list, 0));
        return {dweight, Tensor()};
      },
      at);
}

Tensor one_hot(const Tensor& index, int64_t classes, TensorOptions options) {
  WEFT_CHECK(classes >= 0, "one_hot: the number of classes must not be negative, got {}", classes);
  if (!options.device && index.defined()) options.device = index.device();
  check_index("one_hot", index, classes, "the classes", options.place());
  Shape shape = index.shape();
  shape.push_back(classes);
  Tensor y = empty(shape, options);
  WEFT_LAUNCH(index, one_hot(y, index));
  return y;
}

SortResult sort(const Tensor& x, int axis, bool descending, Location at) {
  if (x.dtype() != DType::int64) check_float("sort", x);
  axis = normalize_axis("sort", axis, x.shape());
  Tensor values = empty_like(x), indices = empty(x.shape(), {.dtype = DType::int64, .device = x.device()});
  WEFT_LAUNCH(x, sort(values, indices, x, axis, descending));
  return {recorded_gather("sort", values, x, indices, axis, at), indices};
}

Tensor argsort(const Tensor& x, int axis, bool descending) {
  NoGrad no_grad;
  return sort(x, axis, descending).indices;
}

SortResult topk(const Tensor& x, int64_t k, int axis, bool largest, Location at) {
  if (x.dtype() != DType::int64) check_float("topk", x);
  axis = normalize_axis("topk", axis, x.shape());
  WEFT_CHECK(k >= 0 && k <= x.shape()[axis], "topk: k is {}, axis {} of {} has {} elements", k, axis, x, x.shape()[axis]);
  Shape shape = x.shape();
  shape[axis] = k;
  Tensor values = empty(shape, x.options()), indices = empty(shape, {.dtype = DType::int64, .device = x.device()});
  WEFT_LAUNCH(x, topk(values, indices, x, axis, largest));
  return {recorded_gather("topk", values, x, indices, axis, at), indices};
}

Tensor tril_mask(int64_t rows, int64_t columns, int64_t diagonal, Device device) {
  check_lengths("tril_mask", rows, columns);
  Tensor y = empty({rows, columns}, {.dtype = DType::boolean, .device = device});
  WEFT_LAUNCH(y, triangular_mask(y, diagonal, false));
  return y;
}

Tensor triu_mask(int64_t rows, int64_t columns, int64_t diagonal, Device device) {
  check_lengths("triu_mask", rows, columns);
  Tensor y = empty({rows, columns}, {.dtype = DType::boolean, .device = device});
  WEFT_LAUNCH(y, triangular_mask(y, diagonal, true));
  return y;
}

}  // namespace weft
