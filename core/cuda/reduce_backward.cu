// Gradients of the reductions: what arrives at a group of elements is handed to its members. logsumexp: x read (twice for half types), dx
// written. Extremes: they are marked in dx and counted before they get their share, so dx is written twice and read twice.
#include "weft/core/cuda/elementwise.cuh"

namespace weft::cuda {
namespace {

template <class A>
struct Two {
  A a, b;
};

// What the members of a group have in common: an element of each of two tensors of the reduction's result.
template <class T, class U>
class OfGroup {
 public:
  using Value = Two<acc_of<T>>;
  OfGroup(const Tensor& a, const Tensor& b, const Shape& kept, const Shape& x) : a_(a.data<T>()), b_(b.data<U>()), at_(kept, x) {}

  template <int N>
  bool packs() const {  // N neighbours are members of one group, or of N groups side by side
    return at_.rank == 0 ? can_pack<N>(a_, b_) : at_.size[0] % N == 0 && (at_.stride[0] == 0 || can_pack<N>(a_, b_));
  }
  __device__ Value load(int64_t i) const {
    const int64_t j = at_(i);
    return {widen(a_[j]), widen(b_[j])};
  }
  template <int N>
  __device__ void load_all(int64_t i, Value (&x)[N]) const {
    const int64_t j = at_(i);
    if (at_.rank > 0 && at_.stride[0] == 0) {
      const Value one{widen(a_[j]), widen(b_[j])};
      for (int k = 0; k < N; ++k) x[k] = one;
      return;
    }
    const Pack<T, N> a = load_pack<N>(a_ + j);
    const Pack<U, N> b = load_pack<N>(b_ + j);
    for (int k = 0; k < N; ++k) x[k] = {widen(a.value[k]), widen(b.value[k])};
  }

 private:
  const T* a_;
  const U* b_;
  BroadcastIndex at_;
};

// 1 where x is the extreme; NaN is the extreme of its group.
struct IsExtreme {
  template <class A>
  __device__ A operator()(A x, A extreme) const {
    return x == extreme || (x != x && extreme != extreme) ? A(1) : A(0);
  }
};

struct Share {
  template <class A>
  __device__ A operator()(A is_extreme, Two<A> dy_and_count) const {
    return is_extreme * (dy_and_count.a / dy_and_count.b);
  }
};

// A group of -infinities only has no direction to grow in: zero.
struct LogSumExpSlope {
  template <class A>
  __device__ A operator()(A x, Two<A> dy_and_y) const {
    const A dy = dy_and_y.a, y = dy_and_y.b;
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
    constexpr int N = pack_size<T>;
    map<N, T>(dx, IsExtreme(), Dense<T>(x), Repeated<T>(y.viewed_as(kept), x.shape()));
    Tensor count = empty(y.shape(), {.dtype = dtype_of<acc_of<T>>, .device = y.device()});
    sum(count, dx, axes);
    map<N, T>(dx, Share(), Dense<T>(dx), OfGroup<T, acc_of<T>>(dy, count, kept, x.shape()));
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
    map<pack_size<T>, T>(dx, LogSumExpSlope(), Dense<T>(x), OfGroup<T, A>(dy, exact, kept, x.shape()));
  });
}

}  // namespace weft::cuda
