// Gated units: y = act(h1) * h2 for the two halves of the last axis of h, and their backward, in one pass.
#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/core/cpu/gated.cpp"
#include <hwy/foreach_target.h>

#include "weft/core/cpu/elementwise-inl.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

#define UNARY WEFT_UNARY_FORMULA
#include "weft/core/elementwise.def"
#undef UNARY

// Calls f with the formula of a gate.
template <class F>
void dispatch_gate(Gate gate, F&& f) {
  switch (gate) {
    case Gate::gelu:
      return f(gelu_formula());
    case Gate::silu:
      return f(silu_formula());
    case Gate::sigmoid:
      return f(sigmoid_formula());
    case Gate::relu:
      return f(relu_formula());
  }
}

template <class T, class Formula>
void gate_rows(Formula, Tensor& y, const Tensor& h) {
  T* out = y.data<T>();
  const T* in = h.data<T>();
  const int64_t size = y.size(-1);
  if (size == 0) return;
  parallel_for(y.numel() / size, grain_for(size), [=](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t row = begin; row < end; ++row) {
      const T* h1 = in + row * 2 * size;
      map([](Simd<T> v1, Simd<T> v2) HWY_ATTR { return Formula::value(v1) * v2; }, size, out + row * size, h1, h1 + size);
    }
  });
}

void gated_activation(Tensor& y, const Tensor& h, Gate gate) {
  dispatch_float(h.dtype(), "gated", [&]<class T>() { dispatch_gate(gate, [&](auto formula) { gate_rows<T>(formula, y, h); }); });
}

// y = act(h1) * h2: dh1 = dy * h2 * act'(h1), dh2 = dy * act(h1).
template <class T, class Formula>
void gate_rows_backward(Formula, Tensor& dh, const Tensor& dy, const Tensor& h) {
  using S = Simd<T>;
  T* out = dh.data<T>();
  const T* in = h.data<T>();
  const T* dout = dy.data<T>();
  const int64_t size = dy.size(-1);
  if (size == 0) return;
  parallel_for(dy.numel() / size, grain_for(size), [=](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t row = begin; row < end; ++row) {
      const T* h1 = in + row * 2 * size;
      const T* d = dout + row * size;
      T* dh1 = out + row * 2 * size;
      for (int64_t i = 0; i < size; i += S::lanes()) {
        const int64_t n = size - i;
        const S v1 = S::load_n(h1 + i, n), v2 = S::load_n(h1 + size + i, n), vd = S::load_n(d + i, n);
        const S act = Formula::value(v1);
        (vd * v2 * Formula::slope(v1, act)).store_n(dh1 + i, n);
        (vd * act).store_n(dh1 + size + i, n);
      }
    }
  });
}

void gated_activation_backward(Tensor& dh, const Tensor& dy, const Tensor& h, Gate gate) {
  dispatch_float(h.dtype(), "gated",
                 [&]<class T>() { dispatch_gate(gate, [&](auto formula) { gate_rows_backward<T>(formula, dh, dy, h); }); });
}

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

HWY_EXPORT(gated_activation);
HWY_EXPORT(gated_activation_backward);

void gated_activation(Tensor& y, const Tensor& h, Gate gate) { HWY_DYNAMIC_DISPATCH(gated_activation)(y, h, gate); }
void gated_activation_backward(Tensor& dh, const Tensor& dy, const Tensor& h, Gate gate) {
  HWY_DYNAMIC_DISPATCH(gated_activation_backward)(dh, dy, h, gate);
}

}  // namespace weft::cpu
#endif  // HWY_ONCE
