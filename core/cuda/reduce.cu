// Reductions over any set of axes: one group of neighbouring axes after the other, the longest first, as what remains to be read shrinks
// fastest so. Half types are joined in float32, also between passes. Floor: x read once.
#include "weft/core/cuda/reduce.cuh"

namespace weft::cuda {
namespace {

template <class A>
inline constexpr A infinity = std::numeric_limits<A>::infinity();

// Elements joined by F. Those that come together are joined pairwise, so that an element passes few roundings on its way into a sum.
template <class A, class F>
struct Fold {
  static constexpr A missing = std::is_same_v<F, Add> ? A(0) : std::is_same_v<F, Largest> ? -infinity<A> : infinity<A>;
  A value = missing;

  template <int K>
  __device__ void take(const A (&x)[K], int64_t, int64_t) {
    A part[K];
    for (int j = 0; j < K; ++j) part[j] = x[j];
    for (int half = K / 2; half > 0; half /= 2) {
      for (int j = 0; j < half; ++j) part[j] = F()(part[j], part[j + half]);
    }
    value = F()(value, part[0]);
  }
  __device__ void join(const Fold& other) { value = F()(value, other.value); }
  template <class Reduce>
  __device__ void join_lanes(Reduce reduce) {
    value = reduce(value, F(), missing);
  }
  __device__ A result() const { return value; }
};
template <class A>
using Sum = Fold<A, Add>;
template <class A>
using Max = Fold<A, Largest>;
template <class A>
using Min = Fold<A, Smallest>;

// log(sum(exp(x))) = m + log(sum(exp(x - m))) with the largest x so far as m; an infinite or NaN maximum is the result itself.
template <class A>
struct LogSumExp {
  static constexpr A missing = -infinity<A>;
  A m = missing, s = 0;

  // What is subtracted in exponents; 0 instead of an infinity, whose difference to itself is NaN.
  __device__ static A shift_of(A m) { return std::fabs(m) < infinity<A> ? m : A(0); }

  template <int K>
  __device__ void take(const A (&x)[K], int64_t, int64_t) {
    A largest = m;
    for (int j = 0; j < K; ++j) largest = Largest()(largest, x[j]);
    const A shift = shift_of(largest);
    s *= exp_nonpositive(m - shift);
    for (int j = 0; j < K; ++j) s += exp_nonpositive(x[j] - shift);
    m = largest;
  }
  __device__ void join(const LogSumExp& other) {
    const A largest = Largest()(m, other.m), shift = shift_of(largest);
    s = s * exp_nonpositive(m - shift) + other.s * exp_nonpositive(other.m - shift);
    m = largest;
  }
  template <class Reduce>
  __device__ void join_lanes(Reduce reduce) {
    const A largest = reduce(m, Largest(), missing);
    s = reduce(s * exp_nonpositive(m - shift_of(largest)), Add(), A(0));
    m = largest;
  }
  __device__ A result() const { return std::fabs(m) < infinity<A> ? m + std::log(s) : m; }
};

// Results of dtype A, or rounded to a half type.
template <class A>
class Results {
 public:
  explicit Results(Tensor& y) : p_(y.raw()), dtype_(y.dtype()) {}
  template <int N>
  bool packs() const {
    return reinterpret_cast<uintptr_t>(p_) % static_cast<uintptr_t>(N * size_of(dtype_)) == 0;
  }
  template <class State, int N>
  __device__ void store(int64_t i, const State (&x)[N]) const {
    if constexpr (std::is_same_v<A, float>) {
      if (dtype_ == DType::float16) return store_as<float16>(i, x);
      if (dtype_ == DType::bfloat16) return store_as<bfloat16>(i, x);
    }
    store_as<A>(i, x);
  }

 private:
  template <class T, class State, int N>
  __device__ void store_as(int64_t i, const State (&x)[N]) const {
    Pack<T, N> pack;
    for (int j = 0; j < N; ++j) pack.value[j] = narrow<T>(x[j].result());
    store_pack<N>(static_cast<T*>(p_) + i, pack);
  }
  void* p_;
  DType dtype_;
};

template <class State, class T>
void reduce_axis(Tensor& y, const T* x, AxisView v) {
  using A = acc_of<T>;
  const Pieces pieces = cut_axis(x, v);
  if (pieces.count == 1) return reduce_pieces<State>(Results<A>(y), x, v, pieces);
  Tensor partial = empty({v.outer, pieces.count, v.inner}, {.dtype = dtype_of<A>, .device = y.device()});
  reduce_pieces<State>(Results<A>(partial), x, v, pieces);
  reduce_axis<State>(y, std::as_const(partial).data<A>(), {v.outer, pieces.count, v.inner});
}

// y may also be float32 where x is of a half type.
template <template <class> class State>
void reduce(const char* op, double of_nothing, Tensor& y, const Tensor& x, AxisSet axes) {
  if (x.numel() == 0) return fill(y, of_nothing);
  AxisGroups groups(x.shape(), axes);
  int group = groups.longest_reduced();
  if (group < 0) return x.dtype() == y.dtype() ? copy_bytes(y.raw(), y.device(), x.raw(), x.device(), x.bytes()) : convert(y, x);
  dispatch_compute(x.dtype(), op, [&]<class T>() {
    using A = acc_of<T>;
    const auto next = [&](const auto* from) {
      const AxisView v = groups.view(group);
      groups.remove(group);
      group = groups.longest_reduced();
      Tensor to = group < 0 ? y : empty({v.outer, v.inner}, {.dtype = dtype_of<A>, .device = y.device()});
      reduce_axis<State<A>>(to, from, v);
      return to;
    };
    Tensor left = next(x.data<T>());
    while (group >= 0) left = next(std::as_const(left).data<A>());
  });
}

}  // namespace

void sum(Tensor& y, const Tensor& x, AxisSet axes) { reduce<Sum>("sum", 0, y, x, axes); }
void reduce_max(Tensor& y, const Tensor& x, AxisSet axes) { reduce<Max>("max", -infinity<double>, y, x, axes); }
void reduce_min(Tensor& y, const Tensor& x, AxisSet axes) { reduce<Min>("min", infinity<double>, y, x, axes); }
void logsumexp(Tensor& y, const Tensor& x, AxisSet axes) { reduce<LogSumExp>("logsumexp", -infinity<double>, y, x, axes); }

}  // namespace weft::cuda
