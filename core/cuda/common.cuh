// What every .cu file needs: launches, element types, vector accesses, reductions. The same files compile for the emulation
// (core/cuda/emulated/), so they keep to what stands here and to plain C++.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <source_location>
#include <type_traits>

#include "weft/core/axis.h"
#include "weft/core/cuda/context.h"
#include "weft/core/cuda/device.h"
#include "weft/core/dtype.h"
#include "weft/core/kernels.h"
#include "weft/core/math.h"
#include "weft/core/rounding.h"

#ifdef WEFT_CUDA_EMULATED
#include "weft/core/cuda/emulated/emulator.h"
#define WEFT_UNROLL
#define WEFT_UNROLL_BY(n)
#else
/// An array of the block's shared memory, as bytes: element types may have constructors. The emulation fills it with NaN.
#define WEFT_SHARED(T, name, count)                                         \
  __shared__ __align__(16) unsigned char name##_bytes[sizeof(T) * (count)]; \
  T* const name = reinterpret_cast<T*>(name##_bytes)
/// The memory that the launch asked for.
#define WEFT_DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char weft_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(weft_dynamic_shared)
/// Before a loop that must be unrolled, so that the arrays it indexes stay in registers; or n times, where nvcc would do more.
#define WEFT_UNROLL _Pragma("unroll")
#define WEFT_PRAGMA(text) _Pragma(#text)
#define WEFT_UNROLL_BY(n) WEFT_PRAGMA(unroll n)
#endif

namespace weft::cuda {

inline constexpr int block_threads = 256;
inline constexpr unsigned all_lanes = 0xffffffffU;
inline constexpr int lanes_per_warp = 32;

// ---- launches -----------------------------------------------------------------------------------------------------------------------

/// How many blocks, and who launches them: errors name the function.
struct Grid {
  Grid(int64_t blocks, std::source_location where = std::source_location::current()) : Grid(blocks, 1, 1, where) {}
  Grid(int64_t x, int64_t y, int64_t z = 1, std::source_location where = std::source_location::current())
      : size(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z)), empty(x * y * z == 0), at(where) {
    WEFT_CHECK(x <= 0x7fffffff && y <= 65535 && z <= 65535, "{}: a grid of {} x {} x {} blocks is too large", where.function_name(), x, y,
               z);
  }
  dim3 size;
  bool empty;
  std::source_location at;
};

/// Enough blocks for one thread per element, but no more than fill the device a few times over: for kernels that loop (grid_stride).
inline Grid grid_over(int64_t elements, int64_t per_block = block_threads, std::source_location where = std::source_location::current()) {
  return Grid(std::min<int64_t>(ceil_div(elements, per_block), int64_t{32} * context().processors), where);
}

/// Runs kernel(arguments...) on the current device's stream; nothing if the grid is empty.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const Grid& grid, int threads, size_t shared_bytes, Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments));
  if (grid.empty) return;
#ifdef WEFT_CUDA_EMULATED
  const auto check_argument = [&]<class T>(const T& argument) {
    if constexpr (std::is_pointer_v<T>) emulated::check_pointer(argument, grid.at);
  };
  (check_argument(static_cast<Parameters>(arguments)), ...);
  emulated::run([&] { kernel(static_cast<Parameters>(arguments)...); }, grid.size, dim3(static_cast<unsigned>(threads)), shared_bytes,
                grid.at);
#else
  constexpr size_t without_asking = 32 << 10;  // with the 16 KiB that static arrays beside it may have
  if (shared_bytes > without_asking) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          grid.at.function_name());
  }
  const auto start = [&] {
    kernel<<<grid.size, static_cast<unsigned>(threads), shared_bytes, context().stream>>>(static_cast<Parameters>(arguments)...);
    return cudaGetLastError();
  };
  cudaError_t error = start();
  if (error == cudaErrorMemoryAllocation) {  // a kernel's code is loaded at its first launch, perhaps into memory that the pool keeps
    release_cached_memory(context().index);
    error = start();
  }
  check(error, grid.at.function_name());
#endif
}

/// for (int64_t i : every element that is this thread's): for (int64_t i = grid_start(); i < n; i += grid_stride())
__device__ inline int64_t grid_start() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t grid_stride() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

// ---- element types --------------------------------------------------------------------------------------------------------------------

/// Calls f.operator()<T>() for a dtype that kernels compute with: float32, float64, float16, bfloat16.
template <class F>
decltype(auto) dispatch_compute(DType dtype, const char* op, F&& f) {
  switch (dtype) {
    case DType::float32:
      return f.template operator()<float>();
    case DType::float64:
      return f.template operator()<double>();
    case DType::float16:
      return f.template operator()<float16>();
    case DType::bfloat16:
      return f.template operator()<bfloat16>();
    default:
      fail("{}: expected a floating-point tensor, got {}; convert with to(x, DType::float32)", op, dtype);
  }
}

/// What a type computes in: acc_t for floating-point types, itself for others.
template <class T>
struct arithmetic {
  using type = T;
};
template <>
struct arithmetic<float16> {
  using type = float;
};
template <>
struct arithmetic<bfloat16> {
  using type = float;
};
template <class T>
using acc_of = typename arithmetic<T>::type;

/// Storage to arithmetic: half types become float.
template <class T>
__device__ inline T widen(T x) {
  return x;
}
__device__ inline float widen(bfloat16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
__device__ inline float widen(float16 x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
#else
  return static_cast<float>(x);
#endif
}

/// Arithmetic to storage, rounded to nearest even.
template <class T>
__device__ inline T narrow(acc_of<T> x) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<T, float16>) {
    T y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
  } else if constexpr (std::is_same_v<T, bfloat16>) {
    T y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
  }
#endif
  return static_cast<T>(x);
}

template <class T>
inline constexpr bool is_half = std::is_same_v<T, float16> || std::is_same_v<T, bfloat16>;

/// One number as another type: floating point values become int64 towards zero, within its range (NaN: 0).
template <class To, class From>
WEFT_HOST_DEVICE To convert_number(From x) {
  if constexpr (std::is_same_v<To, bool>) {
    return x != From(0);
  } else if constexpr (std::is_same_v<To, int64_t> && std::is_floating_point_v<From>) {
    constexpr int64_t lowest = std::numeric_limits<int64_t>::min(), highest = std::numeric_limits<int64_t>::max();
    if (x >= From(0x1p63)) return highest;
    return x >= From(-0x1p63) ? static_cast<int64_t>(x) : x == x ? lowest : 0;
  } else {
    return static_cast<To>(x);
  }
}

/// `value` as an element of this dtype: its bits, for kernels that only move elements (dispatch_size).
template <class Bits>
Bits bits_of(double value, DType dtype) {
  Bits bits{};
  dispatch_all(dtype, [&]<class T>() {
    if constexpr (sizeof(T) == sizeof(Bits)) {
      if constexpr (is_half<T>) {
        bits = std::bit_cast<Bits>(T(value));
      } else {
        bits = std::bit_cast<Bits>(convert_number<T>(value));
      }
    }
  });
  return bits;
}

// ---- vector accesses: 16 bytes at a time -----------------------------------------------------------------------------------------------

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T value[N];
};
/// N values in registers.
template <class T, int N>
struct Elements {
  T x[N];
};
template <class T>
inline constexpr int pack_size = static_cast<int>(16 / sizeof(T));

template <int N, class T>
__device__ inline Pack<T, N> load_pack(const T* p) {
#ifdef WEFT_CUDA_EMULATED
  emulated::check_alignment(p, sizeof(Pack<T, N>));
#endif
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <int N, class T>
__device__ inline void store_pack(T* p, const Pack<T, N>& x) {
#ifdef WEFT_CUDA_EMULATED
  emulated::check_alignment(p, sizeof(Pack<T, N>));
#endif
  *reinterpret_cast<Pack<T, N>*>(p) = x;
}
/// May all of these be read in packs of N elements, if they are read from multiples of N on?
template <int N, class... T>
bool can_pack(const T*... p) {
  return ((reinterpret_cast<uintptr_t>(p) % (sizeof(T) * N) == 0) && ...);
}

/// N elements from p on, of which only the first `left` exist (zeros stand for the others): 16 bytes at a time where p is `packed`. p may
/// be null: nothing is there, nor stored.
template <int N, class T>
__device__ inline void load_some(acc_of<T> (&x)[N], const T* p /*?*/, int64_t left, bool packed) {
  constexpr int M = std::min(N, pack_size<T>);
  if (p != nullptr && packed && left >= N) {
    WEFT_UNROLL
    for (int i = 0; i < N; i += M) {
      const Pack<T, M> pack = load_pack<M>(p + i);
      WEFT_UNROLL
      for (int k = 0; k < M; ++k) x[i + k] = widen(pack.value[k]);
    }
  } else {
    WEFT_UNROLL
    for (int i = 0; i < N; ++i) x[i] = p != nullptr && i < left ? widen(p[i]) : acc_of<T>(0);
  }
}
template <int N, class T>
__device__ inline void store_some(T* p /*?*/, const acc_of<T> (&x)[N], int64_t left, bool packed) {
  constexpr int M = std::min(N, pack_size<T>);
  if (p == nullptr) return;
  if (packed && left >= N) {
    WEFT_UNROLL
    for (int i = 0; i < N; i += M) {
      Pack<T, M> pack;
      WEFT_UNROLL
      for (int k = 0; k < M; ++k) pack.value[k] = narrow<T>(x[i + k]);
      store_pack<M>(p + i, pack);
    }
  } else {
    WEFT_UNROLL
    for (int i = 0; i < N; ++i) {
      if (i < left) p[i] = narrow<T>(x[i]);
    }
  }
}

// ---- reductions: in a fixed order, so that runs repeat ---------------------------------------------------------------------------------

struct Add {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
/// NaN wins.
struct Largest {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a != a || a > b ? a : b;
  }
};
struct Smallest {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a != a || a < b ? a : b;
  }
};

/// The reduction over groups of `width` neighbouring lanes (a power of two); every lane gets it. All lanes of the warp must call it.
template <class T, class F>
__device__ T warp_reduce(T x, F f, int width = lanes_per_warp) {
  for (int step = width / 2; step > 0; step /= 2) x = f(x, __shfl_xor_sync(all_lanes, x, step));
  return x;
}

/// The reduction over a block of whole warps; every thread gets it. All threads must call it; `identity` changes nothing.
template <class T, class F>
__device__ T block_reduce(T x, F f, T identity) {
  WEFT_SHARED(T, partial, lanes_per_warp);
  const int lane = static_cast<int>(threadIdx.x) % lanes_per_warp, warp = static_cast<int>(threadIdx.x) / lanes_per_warp;
  const int warps = static_cast<int>(blockDim.x) / lanes_per_warp;
  x = warp_reduce(x, f);
  __syncthreads();  // an earlier reduction may still be read
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  return warp_reduce(lane < warps ? partial[lane] : identity, f);
}

// ---- shapes in kernels -----------------------------------------------------------------------------------------------------------------

/// A number of at least 1 that kernels divide by: a multiplication and a shift, where the machine's division is a loop.
class Divisor {
 public:
  Divisor() = default;
  explicit Divisor(int64_t n) : n_(n) {
    WEFT_CHECK(n >= 1, "expected a divisor of at least 1, got {}", n);
    const auto d = static_cast<uint64_t>(n);
    shift_ = static_cast<int>(std::bit_width(d - 1));  // 2^shift is the smallest power of two that is not below n
    factor_ = static_cast<uint64_t>((static_cast<unsigned __int128>((uint64_t{1} << shift_) - d) << 64) / d) + 1;
  }
  WEFT_HOST_DEVICE int64_t value() const { return n_; }
  /// i / n for i >= 0: factor / 2^64 is 2^shift / n - 1, rounded upwards.
  WEFT_HOST_DEVICE int64_t divide(int64_t i) const {
    const auto u = static_cast<uint64_t>(i);
    return static_cast<int64_t>((static_cast<uint64_t>(static_cast<unsigned __int128>(u) * factor_ >> 64) + u) >> shift_);
  }

 private:
  int64_t n_ = 1;
  uint64_t factor_ = 1;
  int shift_ = 0;
};

/// Where element i of a tensor of shape `to` lies in an operand that broadcasts to it. Axes of size 1 are dropped and neighbours merged.
struct BroadcastIndex {
  int rank = 0;  // 0: element i of the operand
  std::array<Divisor, Shape::max_rank> size{};
  std::array<int64_t, Shape::max_rank> stride{};  // innermost first; 0 where the operand is repeated

  BroadcastIndex() = default;
  BroadcastIndex(const Shape& from, const Shape& to) {
    if (to.numel() == 0) return;
    int64_t run = 1;
    for (int i = 0; i < to.rank(); ++i) {
      const int64_t n = to.back(i);
      if (n == 1) continue;
      const bool repeated = i >= from.rank() || from.back(i) == 1;
      const int64_t step = repeated ? 0 : run;
      if (!repeated) run *= n;
      const auto last = static_cast<size_t>(rank) - 1;
      if (rank > 0 && (step == 0) == (stride[last] == 0)) {
        size[last] = Divisor(size[last].value() * n);
      } else {
        size[last + 1] = Divisor(n);
        stride[last + 1] = step;
        ++rank;
      }
    }
    if (rank == 1 && stride[0] == 1) rank = 0;
  }
  /// One element for all.
  bool is_scalar() const { return rank == 1 && stride[0] == 0; }

  /// The row of the innermost axis that element i is in, of rank >= 1.
  __device__ int64_t row_of(int64_t i) const { return rank == 1 ? 0 : size[0].divide(i); }
  /// Where that row begins in the operand.
  __device__ int64_t row_begin(int64_t row) const {
    int64_t offset = 0;
    for (int axis = 1; axis < rank; ++axis) {
      const auto a = static_cast<size_t>(axis);
      const int64_t rest = axis == rank - 1 ? 0 : size[a].divide(row);
      offset += (row - rest * size[a].value()) * stride[a];
      row = rest;
    }
    return offset;
  }
  __device__ int64_t operator()(int64_t i) const {
    if (rank == 0) return i;
    const int64_t row = row_of(i);
    return row_begin(row) + (i - row * size[0].value()) * stride[0];
  }
};

}  // namespace weft::cuda
