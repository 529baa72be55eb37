// The loop behind every elementwise kernel: y[i] = f(x[i], ...), 16 bytes at a time where shapes and addresses allow it. Operands that
// broadcast are read where they lie.
#pragma once

#include "weft/core/cuda/common.cuh"
#include "weft/core/functors.h"

namespace weft::cuda {

template <int N, class T>
__device__ inline void load_pack_of(const T* p, acc_of<T> (&x)[N]) {
  const Pack<T, N> pack = load_pack<N>(p);
  for (int j = 0; j < N; ++j) x[j] = widen(pack.value[j]);
}

/// An operand of the output's shape.
template <class T>
struct Dense {
  const T* p;
  explicit Dense(const Tensor& x) : p(static_cast<const T*>(x.raw())) {}

  template <int N>
  bool packs() const {
    return can_pack<N>(p);
  }
  __device__ auto load(int64_t i) const { return widen(p[i]); }
  template <int N>
  __device__ void load_all(int64_t i, acc_of<T> (&x)[N]) const {
    load_pack_of(p + i, x);
  }
  using Value = acc_of<T>;
};

/// An operand that broadcasts to the output's shape.
template <class T>
struct Repeated {
  const T* p;
  BroadcastIndex at;
  Repeated(const Tensor& x, const Shape& to) : p(static_cast<const T*>(x.raw())), at(x.shape(), to) {}
  /// Rows that lie in some other way.
  Repeated(const T* first, const BroadcastIndex& index) : p(first), at(index) {}

  // N neighbours in the output come from one row of the operand's innermost axis, or from two.
  template <int N>
  bool packs() const {
    return at.rank == 0 ? can_pack<N>(p) : at.size[0].value() >= N;
  }
  __device__ auto load(int64_t i) const { return widen(p[at(i)]); }
  template <int N>
  __device__ void load_all(int64_t i, acc_of<T> (&x)[N]) const {
    if (at.rank == 0) return load_pack_of(p + i, x);
    const int64_t size = at.size[0].value(), stride = at.stride[0];
    const int64_t row = at.row_of(i), column = i - row * size, left = size - column;
    const T* from = p + at.row_begin(row) + column * stride;
    if (stride == 0 && left >= N) {
      const acc_of<T> same = widen(*from);
      for (int j = 0; j < N; ++j) x[j] = same;
    } else if (stride == 1 && left >= N && reinterpret_cast<uintptr_t>(from) % sizeof(Pack<T, N>) == 0) {
      load_pack_of(from, x);
    } else {
      const T* next = left >= N ? from : p + at.row_begin(row + 1) - left * stride;
      for (int j = 0; j < N; ++j) x[j] = widen(j < left ? from[j * stride] : next[j * stride]);
    }
  }
  using Value = acc_of<T>;
};

/// Stands for an operand that a formula does not read; the tensor may be undefined.
template <class T>
struct NotRead {
  NotRead() = default;
  explicit NotRead(const Tensor&) {}
  NotRead(const Tensor&, const Shape&) {}
  template <int N>
  bool packs() const {
    return true;
  }
  __device__ acc_of<T> load(int64_t) const { return {}; }
  template <int N>
  __device__ void load_all(int64_t, acc_of<T> (&x)[N]) const {
    for (int j = 0; j < N; ++j) x[j] = {};
  }
  using Value = acc_of<T>;
};

/// Not memory: the position of the element.
struct Position {
  template <int N>
  bool packs() const {
    return true;
  }
  __device__ int64_t load(int64_t i) const { return i; }
  template <int N>
  __device__ void load_all(int64_t i, int64_t (&x)[N]) const {
    for (int j = 0; j < N; ++j) x[j] = i + j;
  }
  using Value = int64_t;
};

/// Dense<T> if the formula reads it.
template <bool is_read, class T>
using DenseIf = std::conditional_t<is_read, Dense<T>, NotRead<T>>;
template <bool is_read, class T>
using RepeatedIf = std::conditional_t<is_read, Repeated<T>, NotRead<T>>;

/// The formula of kernels whose operand already is the result.
struct Same {
  template <class A>
  __device__ A operator()(A x) const {
    return x;
  }
};

template <int N, class Out, class F, class... Operands>
__global__ void map_kernel(Out* y, int64_t n, bool packed, F f, Operands... x) {
  int64_t i = grid_start();
  if (packed) {
    for (; i < n / N; i += grid_stride()) {
      Pack<Out, N> out;
      // One array per operand, then f on each place of them.
      [&]<class... Values>(Values... values) {
        (x.template load_all<N>(i * N, values.x), ...);
        for (int j = 0; j < N; ++j) out.value[j] = narrow<Out>(f(values.x[j]...));
      }(Elements<typename Operands::Value, N>()...);
      store_pack<N>(y + i * N, out);
    }
    i = n / N * N + grid_start();
  }
  for (; i < n; i += grid_stride()) y[i] = narrow<Out>(f(x.load(i)...));
}

/// y = f(x...) for every element of y; f takes and returns values in arithmetic types. N: elements to a pack, by the widest type.
template <int N, class Out, class F, class... Operands>
void map(Tensor& y, F f, const Operands&... x) {
  Out* out = static_cast<Out*>(y.raw());
  const bool packed = can_pack<N>(out) && (x.template packs<N>() && ...);
  launch(map_kernel<N, Out, F, Operands...>, grid_over(ceil_div(y.numel(), packed ? N : 1)), block_threads, 0, out, y.numel(), packed, f,
         x...);
}

}  // namespace weft::cuda
