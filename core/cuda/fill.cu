// Fills, conversions between dtypes, and what the engine does to gradients: one pass over memory each.
#include "weft/core/cuda/elementwise.cuh"

namespace weft::cuda {
namespace {

// Between what the types compute in; a half type's value may have more digits still, and is rounded once when it is stored.
template <class To, class From>
struct Convert {
  __device__ acc_of<To> operator()(acc_of<From> x) const {
    if constexpr (is_half<To> && !std::is_same_v<acc_of<From>, float>) {
      return detail::narrow_to_odd(static_cast<double>(x));
    } else {
      return convert_number<acc_of<To>>(x);
    }
  }
};

template <class T>
struct Constant {
  T value;
  __device__ T operator()() const { return value; }
};

template <class T>
struct AddScaled {
  T alpha;
  __device__ T operator()(T x, T y) const { return mul_add(alpha, y, x); }
};

struct NonFinite {
  int64_t nan, infinite;
};

template <class T>
__device__ void count(NonFinite& found, T x) {
  if (x != x) {
    ++found.nan;
  } else if (x - x != T(0)) {
    ++found.infinite;
  }
}

// counts: NaN, infinite; integers, which add up to the same in any order.
template <int N, class T>
__global__ void count_nonfinite_kernel(unsigned long long* counts, Dense<T> x, int64_t n, bool packed) {
  NonFinite found{0, 0};
  int64_t i = grid_start();
  if (packed) {
    for (; i < n / N; i += grid_stride()) {
      acc_of<T> values[N];
      x.template load_all<N>(i * N, values);
      for (int j = 0; j < N; ++j) count(found, values[j]);
    }
    i = n / N * N + grid_start();
  }
  for (; i < n; i += grid_stride()) count(found, x.load(i));
  const int64_t nan = block_reduce(found.nan, Add(), int64_t{0}), infinite = block_reduce(found.infinite, Add(), int64_t{0});
  if (threadIdx.x != 0) return;
  if (nan > 0) atomicAdd(counts, static_cast<unsigned long long>(nan));
  if (infinite > 0) atomicAdd(counts + 1, static_cast<unsigned long long>(infinite));
}

}  // namespace

void convert(Tensor& y, const Tensor& x) {
  if (y.numel() == 0) return;
  if (y.dtype() == x.dtype()) {
    check(cudaMemcpyAsync(y.raw(), x.raw(), static_cast<size_t>(x.bytes()), cudaMemcpyDeviceToDevice, context().stream), "convert");
    return;
  }
  dispatch_all(y.dtype(), [&]<class To>() {
    dispatch_all(x.dtype(), [&]<class From>() {
      if constexpr (!std::is_same_v<To, From>) {
        map<std::min(pack_size<To>, pack_size<From>), To>(y, Convert<To, From>(), Dense<From>(x));
      }
    });
  });
}

void fill(Tensor& y, double value) {
  dispatch_size(y.dtype(), [&]<class T>() { map<pack_size<T>, T>(y, Constant<T>{bits_of<T>(value, y.dtype())}); });
}

void fill_range(Tensor& y) {
  dispatch_all(y.dtype(), [&]<class T>() { map<pack_size<T>, T>(y, Convert<T, int64_t>(), Position()); });
}

void accumulate(Tensor& x, const Tensor& y, double alpha) {
  dispatch_compute(x.dtype(), "accumulate", [&]<class T>() {
    map<pack_size<T>, T>(x, AddScaled<acc_t<T>>{static_cast<acc_t<T>>(alpha)}, Dense<T>(x), Dense<T>(y));
  });
}

void count_nonfinite(Tensor& y, const Tensor& x) {
  auto* const counts = static_cast<unsigned long long*>(y.raw());
  check(cudaMemsetAsync(counts, 0, 2 * sizeof(*counts), context().stream), "count_nonfinite");
  dispatch_compute(x.dtype(), "count_nonfinite", [&]<class T>() {
    constexpr int N = pack_size<T>;
    const Dense<T> in(x);
    launch(count_nonfinite_kernel<N, T>, grid_over(ceil_div(x.numel(), N)), block_threads, 0, counts, in, x.numel(),
           in.template packs<N>());
  });
}

}  // namespace weft::cuda
