// Gated units: y = act(h1) * h2 for the two halves of the last axis of h, and their backward, in one pass.
#include "weft/core/cuda/elementwise.cuh"

namespace weft::cuda {
namespace {

// Calls f with the formula of a gate.
template <class F>
void dispatch_gate(Gate gate, F&& f) {
  switch (gate) {
    case Gate::gelu:
      return f(formulas::gelu_formula());
    case Gate::silu:
      return f(formulas::silu_formula());
    case Gate::sigmoid:
      return f(formulas::sigmoid_formula());
    case Gate::relu:
      return f(formulas::relu_formula());
  }
}

template <class Formula>
struct Gated {
  template <class A>
  __device__ A operator()(A h1, A h2) const {
    return Formula::value(h1) * h2;
  }
};

// One half of every row of h, as an operand of y's shape: rows of `size` elements, 2 * size apart.
template <class T>
Repeated<T> half_of(const Tensor& h, int64_t first) {
  const int64_t size = h.size(-1) / 2;
  BroadcastIndex at;
  at.rank = 2;
  at.size = {Divisor(size), Divisor(h.numel() / (2 * size))};
  at.stride = {1, 2 * size};
  return Repeated<T>(static_cast<const T*>(h.raw()) + first, at);
}

// y = act(h1) * h2: dh1 = dy * h2 * act'(h1), dh2 = dy * act(h1). N neighbours of dy in one row, n of dy in all.
template <int N, class T, class Formula>
__global__ void gated_backward_kernel(Formula, T* dh, const T* dy, const T* h, Divisor size, int64_t n) {
  using A = acc_t<T>;
  for (int64_t i = grid_start() * N; i < n; i += grid_stride() * N) {
    const int64_t first = i + size.divide(i) * size.value(), second = first + size.value();  // row * 2 size + column
    A d[N], v1[N], v2[N];
    load_pack_of(dy + i, d);
    load_pack_of(h + first, v1);
    load_pack_of(h + second, v2);
    Pack<T, N> d1, d2;
    for (int j = 0; j < N; ++j) {
      const A act = Formula::value(v1[j]);
      d1.value[j] = narrow<T>(d[j] * v2[j] * Formula::slope(v1[j], act));
      d2.value[j] = narrow<T>(d[j] * act);
    }
    store_pack(dh + first, d1);
    store_pack(dh + second, d2);
  }
}

}  // namespace

void gated_activation(Tensor& y, const Tensor& h, Gate gate) {
  if (y.numel() == 0) return;
  dispatch_compute(y.dtype(), "gated", [&]<class T>() {
    const Repeated<T> h1 = half_of<T>(h, 0), h2 = half_of<T>(h, y.size(-1));
    dispatch_gate(gate, [&]<class Formula>(Formula) { map<pack_size<T>, T>(y, Gated<Formula>(), h1, h2); });
  });
}

void gated_activation_backward(Tensor& dh, const Tensor& dy, const Tensor& h, Gate gate) {
  const int64_t n = dy.numel();
  if (n == 0) return;
  dispatch_compute(dh.dtype(), "gated", [&]<class T>() {
    constexpr int N = pack_size<T>;
    T* const out = static_cast<T*>(dh.raw());
    const T *const d = static_cast<const T*>(dy.raw()), *const in = static_cast<const T*>(h.raw());
    const Divisor size(dy.size(-1));
    const bool packed = size.value() % N == 0 && can_pack<N>(out, d, in);
    dispatch_gate(gate, [&]<class Formula>(Formula formula) {
      if (packed) {
        launch(gated_backward_kernel<N, T, Formula>, grid_over(n / N), block_threads, 0, formula, out, d, in, size, n);
      } else {
        launch(gated_backward_kernel<1, T, Formula>, grid_over(n), block_threads, 0, formula, out, d, in, size, n);
      }
    });
  });
}

}  // namespace weft::cuda
