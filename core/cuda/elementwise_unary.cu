// UNARY and UNARY_P rows of elementwise.def: y = f(x) and dx = dy * f'.
#include "weft/core/cuda/elementwise.cuh"

namespace weft::cuda {
namespace {

// `P` is empty, or the one parameter of an UNARY_P row.
template <class Formula, class A, class... P>
struct Value {
  A p[sizeof...(P) + 1];
  __device__ A operator()(A x) const {
    if constexpr (sizeof...(P) == 0) {
      return Formula::value(x);
    } else {
      return Formula::value(x, p[0]);
    }
  }
};

template <class Formula, class A, class... P>
struct Slope {
  A p[sizeof...(P) + 1];
  __device__ A operator()(A dy, A x, A y) const {
    if constexpr (sizeof...(P) == 0) {
      return dy * Formula::slope(x, y);
    } else {
      return dy * Formula::slope(x, y, p[0]);
    }
  }
};

template <class Formula, class... P>
void unary(Tensor& y, const Tensor& x, P... p) {
  dispatch_compute(x.dtype(), "unary",
                   [&]<class T>() { map<pack_size<T>, T>(y, Value<Formula, acc_t<T>, P...>{{static_cast<acc_t<T>>(p)...}}, Dense<T>(x)); });
}

template <class Formula, class... P>
void unary_backward(Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& y, P... p) {
  dispatch_compute(dx.dtype(), "unary_backward", [&]<class T>() {
    map<pack_size<T>, T>(dx, Slope<Formula, acc_t<T>, P...>{{static_cast<acc_t<T>>(p)...}}, Dense<T>(dy),
                         DenseIf<Formula::slope_reads_x, T>(x), DenseIf<Formula::slope_reads_y, T>(y));
  });
}

}  // namespace

#define UNARY(name, ...)                                                                 \
  void name(Tensor& y, const Tensor& x) { unary<formulas::name##_formula>(y, x); }       \
  void name##_backward(Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& y) { \
    unary_backward<formulas::name##_formula>(dx, dy, x, y);                              \
  }
#define UNARY_P(name, ...)                                                                         \
  void name(Tensor& y, const Tensor& x, double p) { unary<formulas::name##_formula>(y, x, p); }    \
  void name##_backward(Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& y, double p) { \
    unary_backward<formulas::name##_formula>(dx, dy, x, y, p);                                     \
  }
#include "weft/core/elementwise.def"
#undef UNARY
#undef UNARY_P

}  // namespace weft::cuda
