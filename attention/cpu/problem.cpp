#include "weft/attention/cpu/problem.h"

#include <utility>

namespace weft::cpu {
namespace {

template <class T>
RowArray<T> make_rows(T* data, const Shape& shape, AttentionLayout layout) {
  const int64_t width = shape[3], batch = shape[1] * shape[2] * width;
  if (layout == AttentionLayout::bhnd) return {data, batch, shape[2] * width, width};
  return {data, batch, width, shape[2] * width};
}

}  // namespace

template <class T>
RowArray<T> row_array(Tensor& x, AttentionLayout layout) {
  return make_rows(x.data<T>(), x.shape(), layout);
}
template <class T>
RowArray<const T> row_array(const Tensor& x, AttentionLayout layout) {
  return make_rows(x.data<T>(), x.shape(), layout);
}

template <class T>
PairArray<const T> pair_array(const Tensor& x) {
  PairArray<const T> array;
  if (!x.defined()) return array;
  array.data = x.data<T>();
  int64_t* strides[] = {&array.key, &array.row, &array.head, &array.batch};
  int64_t stride = 1;
  for (int i = 0; i < x.rank(); ++i) {
    *strides[i] = x.shape().back(i) == 1 ? 0 : stride;
    stride *= x.shape().back(i);
  }
  return array;
}

template <class T>
PairArray<T> pair_array(Tensor& x) {
  const PairArray<const T> array = pair_array<T>(std::as_const(x));
  return {x.data<T>(), array.batch, array.head, array.row, array.key};
}

template <class T>
PairArray<T> weights_array(const Tensor& x, const Problem<std::remove_const_t<T>>& p, bool compact) {
  if (!x.defined()) return {};
  T* data = const_cast<Tensor&>(x).data<std::remove_const_t<T>>();
  if (!compact) return {data, p.H * p.N * p.M, p.N * p.M, p.M, 1};
  // Entry t of row i is key i + (M - N) - left + t: one column further left with every row.
  const int64_t width = p.left + 1 + p.right;
  return {data - (p.M - p.N - p.left), p.H * p.N * width, p.N * width, width - 1, 1};
}

template <class T>
Problem<T> make_problem(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionScope& scope) {
  const bool heads_first = scope.layout == AttentionLayout::bhnd;
  const int head_axis = heads_first ? 1 : 2, row_axis = heads_first ? 2 : 1;
  Problem<T> p;
  p.B = q.size(0), p.H = q.size(head_axis), p.N = q.size(row_axis), p.D = q.size(3);
  p.Hkv = k.size(head_axis), p.M = k.size(row_axis);
  p.scale = static_cast<T>(scope.scale);
  p.left = scope.left, p.right = scope.right;
  p.q = row_array<T>(q, scope.layout), p.k = row_array<T>(k, scope.layout);
  if (v.defined()) {
    p.Dv = v.size(3);
    p.v = row_array<T>(v, scope.layout);
  }
  p.mask = pair_array<bool>(scope.mask), p.bias = pair_array<T>(scope.bias);
  if (scope.key_lengths.defined()) p.key_lengths = scope.key_lengths.data<int64_t>();
  p.multiplier = pair_array<T>(scope.dropout_multiplier);
  if (!p.multiplier && scope.dropout > 0) {
    p.draws = true;
    p.threshold = drop_threshold(scope.dropout);
    p.keep_scale = scope.dropout < 1 ? static_cast<T>(1 / (1 - scope.dropout)) : T(0);
    p.key = scope.key;
  }
  return p;
}

#define WEFT_INSTANTIATE(T)                                                          \
  template RowArray<T> row_array(Tensor&, AttentionLayout);                          \
  template RowArray<const T> row_array(const Tensor&, AttentionLayout);              \
  template PairArray<const T> pair_array(const Tensor&);                             \
  template PairArray<T> pair_array(Tensor&);                                         \
  template PairArray<T> weights_array(const Tensor&, const Problem<T>&, bool);       \
  template PairArray<const T> weights_array(const Tensor&, const Problem<T>&, bool); \
  template Problem<T> make_problem(const Tensor&, const Tensor&, const Tensor&, const AttentionScope&);
template PairArray<const bool> pair_array(const Tensor&);
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
#undef WEFT_INSTANTIATE

}  // namespace weft::cpu
