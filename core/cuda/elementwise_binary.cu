// BINARY rows of elementwise.def: y = f(a, b) with broadcasting, and dy * df/da, dy * df/db at the broadcast shape.
//
// One pass: the output is written once, operands are read where they lie, repeated ones from the cache.
#include "weft/core/cuda/elementwise.cuh"

namespace weft::cuda {
namespace {

template <class Formula>
struct Value {
  template <class A>
  __device__ A operator()(A a, A b) const {
    return Formula::value(a, b);
  }
};

// The two slopes of a formula behind one interface.
template <class Formula>
struct SlopeA {
  static constexpr bool reads_a = Formula::slope_a_reads_a, reads_b = Formula::slope_a_reads_b, reads_y = Formula::slope_a_reads_y;
  static constexpr bool is_one = Formula::slope_a_is_one;
  template <class A>
  __device__ A operator()(A dy, A a, A b, A y) const {
    return dy * Formula::slope_a(a, b, y);
  }
};
template <class Formula>
struct SlopeB {
  static constexpr bool reads_a = Formula::slope_b_reads_a, reads_b = Formula::slope_b_reads_b, reads_y = Formula::slope_b_reads_y;
  static constexpr bool is_one = Formula::slope_b_is_one;
  template <class A>
  __device__ A operator()(A dy, A a, A b, A y) const {
    return dy * Formula::slope_b(a, b, y);
  }
};

template <class Formula>
void binary(Tensor& y, const Tensor& a, const Tensor& b) {
  dispatch_compute(y.dtype(), "binary",
                   [&]<class T>() { map<pack_size<T>, T>(y, Value<Formula>(), Repeated<T>(a, y.shape()), Repeated<T>(b, y.shape())); });
}

template <class Slope>
void binary_backward(Tensor& dx, const Tensor& dy, const Tensor& a, const Tensor& b, const Tensor& y) {
  if constexpr (Slope::is_one) return convert(dx, dy);
  dispatch_compute(dx.dtype(), "binary_backward", [&]<class T>() {
    map<pack_size<T>, T>(dx, Slope(), Dense<T>(dy), RepeatedIf<Slope::reads_a, T>(a, dx.shape()),
                         RepeatedIf<Slope::reads_b, T>(b, dx.shape()), DenseIf<Slope::reads_y, T>(y));
  });
}

}  // namespace

#define BINARY(name, ...)                                                                                   \
  void name(Tensor& y, const Tensor& a, const Tensor& b) { binary<formulas::name##_formula>(y, a, b); }     \
  void name##_backward_a(Tensor& da, const Tensor& dy, const Tensor& a, const Tensor& b, const Tensor& y) { \
    binary_backward<SlopeA<formulas::name##_formula>>(da, dy, a, b, y);                                     \
  }                                                                                                         \
  void name##_backward_b(Tensor& db, const Tensor& dy, const Tensor& a, const Tensor& b, const Tensor& y) { \
    binary_backward<SlopeB<formulas::name##_formula>>(db, dy, a, b, y);                                     \
  }
#include "weft/core/elementwise.def"
#undef BINARY

}  // namespace weft::cuda
