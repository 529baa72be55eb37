// Gradients of the reductions: what arrives at a group of elements is handed to its members. logsumexp: x read (twice for half types), dx
// written. Extremes: they are marked in dx and counted before they get their share, so dx is written twice and read twice.
#include "weft/core/cuda/elementwise.cuh"

namespace weft::cuda {
namespace {

// 1 where x is the extreme; NaN is the extreme of its group.
struct IsExtreme {
  template <class A>
  __device__ A operator()(A x, A extreme) const {
    return x == extreme || (x != x && extreme != extreme) ? A(1) : A(0);
  }
};

struct Share {
  template <class A>
  __device__ A operator()(A is_extreme, A dy, A count) const {
    return is_extreme * (dy / count);
  }
};

// A group of -infinities only has no direction to grow in: zero.
struct LogSumExpSlope {
  template <class A>
  __device__ A operator()(A x, A dy, A y) const {
    return y == -std::numeric_limits<A>::infinity() ? A(0) : dy * exp_nonpositive(x - y);
  }
};

// The shape of the result with the reduced axes in it: it broadcasts to x's.
Shape kept_shape(const Shape& x, AxisSet axes) {
  Shape kept;
  for (int i = 0; i < x.rank(); ++i) kept.push_back(axes.has(i) ? 1 : x[i]);
  return kept;
}

}  // namespace

void reduce_extreme_backward(Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& y, AxisSet axes) {
  if (x.numel() == 0) return;
  const Shape kept = kept_shape(x.shape(), axes);
  dispatch_compute(x.dtype(), "max", [&]<class T>() {
    using A = acc_of<T>;
    map<pack_size<T>, T>(dx, IsExtreme(), Dense<T>(x), Repeated<T>(y.viewed_as(kept), x.shape()));
    Tensor count = empty(y.shape(), {.dtype = dtype_of<A>, .device = y.device()});
    sum(count, dx, axes);
    map<pack_size<T>, T>(dx, Share(), Dense<T>(dx), Repeated<T>(dy.viewed_as(kept), x.shape()),
                         Repeated<A>(count.viewed_as(kept), x.shape()));
  });
}

void logsumexp_backward(Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& y, AxisSet axes) {
  if (x.numel() == 0) return;
  const Shape kept = kept_shape(x.shape(), axes);
  dispatch_compute(x.dtype(), "logsumexp", [&]<class T>() {
    using A = acc_of<T>;
    Tensor exact = y;
    if constexpr (!std::is_same_v<T, A>) {  // rounded to bfloat16, 500.7 is 500: exp(x - y) would be twice what it is
      exact = empty(y.shape(), {.dtype = dtype_of<A>, .device = y.device()});
      logsumexp(exact, x, axes);
    }
    map<pack_size<T>, T>(dx, LogSumExpSlope(), Dense<T>(x), Repeated<T>(dy.viewed_as(kept), x.shape()),
                         Repeated<A>(exact.viewed_as(kept), x.shape()));
  });
}

}  // namespace weft::cuda
