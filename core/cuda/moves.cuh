// What kernels share that move elements: units of up to 16 bytes, and the loop y[i] = f(i).
#pragma once

#include <cstring>

#include "weft/core/cuda/common.cuh"
#include "weft/core/strided_copy.h"

namespace weft::cuda {

// ---- units: elements are moved as unsigned integers, several at once where they lie side by side ----------------------------------------

using Unit16 = Pack<uint64_t, 2>;

inline int64_t address(const Tensor& x) { return static_cast<int64_t>(reinterpret_cast<intptr_t>(x.raw())); }

/// The widest unit, in bytes, of which all these addresses, sizes and distances are multiples: 1, 2, 4, 8 or 16.
template <class... Bytes>
int64_t widest_unit(Bytes... bytes) {
  const int64_t bits = (int64_t{16} | ... | bytes);
  return bits & -bits;
}

/// Calls f.operator()<U>() with a type of `unit` bytes.
template <class F>
void dispatch_unit(int64_t unit, F&& f) {
  switch (unit) {
    case 1:
      return f.template operator()<uint8_t>();
    case 2:
      return f.template operator()<uint16_t>();
    case 4:
      return f.template operator()<uint32_t>();
    case 8:
      return f.template operator()<uint64_t>();
    default:
      return f.template operator()<Unit16>();
  }
}

template <class U>
__device__ inline U load_unit(const U* p) {
  return load_pack<1>(p).value[0];
}
template <class U>
__device__ inline void store_unit(U* p, const U& x) {
  store_pack<1>(p, Pack<U, 1>{{x}});
}

/// `value` as elements of `dtype`, as many as make up a U.
template <class U>
U unit_of(double value, DType dtype) {
  U unit{};
  const auto repeat = [&]<class Bits>(Bits bits) {
    if constexpr (sizeof(Bits) <= sizeof(U)) {
      for (size_t i = 0; i < sizeof(U); i += sizeof(Bits)) std::memcpy(reinterpret_cast<std::byte*>(&unit) + i, &bits, sizeof(Bits));
    }
  };
  switch (size_of(dtype)) {
    case 1:
      repeat(bits_of<uint8_t>(value, dtype));
      break;
    case 2:
      repeat(bits_of<uint16_t>(value, dtype));
      break;
    case 4:
      repeat(bits_of<uint32_t>(value, dtype));
      break;
    default:
      repeat(bits_of<uint64_t>(value, dtype));
  }
  return unit;
}

// ---- y[i] = f(i) ------------------------------------------------------------------------------------------------------------------------

/// Where element i of a StridedCopy's target lies in its source.
struct StridedOffset {
  int rank = 0;
  std::array<Divisor, StridedCopy::max_rank> size{};  // innermost first
  std::array<int64_t, StridedCopy::max_rank> stride{};

  StridedOffset() = default;
  explicit StridedOffset(const StridedCopy& copy) : rank(copy.rank) {
    for (int i = 0; i < rank; ++i) {
      const auto from = static_cast<size_t>(rank - 1 - i), to = static_cast<size_t>(i);
      size[to] = Divisor(copy.size[from]);
      stride[to] = copy.stride[from];
    }
  }
  __device__ int64_t operator()(int64_t i) const {
    int64_t offset = 0;
    for (int axis = 0; axis < rank; ++axis) {
      const auto a = static_cast<size_t>(axis);
      const int64_t rest = axis == rank - 1 ? 0 : size[a].divide(i);
      offset += (i - rest * size[a].value()) * stride[a];
      i = rest;
    }
    return offset;
  }
};

// Several values are on their way before the first is stored: what f reads has a long way to come.
template <class U, class F>
__global__ void produce_kernel(U* y, int64_t n, F f) {
  constexpr int batch = 4;
  const int64_t step = grid_stride();
  int64_t i = grid_start();
  for (; i + (batch - 1) * step < n; i += batch * step) {
    U values[batch];
    WEFT_UNROLL
    for (int j = 0; j < batch; ++j) values[j] = f(i + j * step);
    WEFT_UNROLL
    for (int j = 0; j < batch; ++j) store_unit(y + i + j * step, values[j]);
  }
  for (; i < n; i += step) store_unit(y + i, f(i));
}

/// y, seen as n units U, is f(0), f(1), ...
template <class U, class F>
void produce(Tensor& y, int64_t n, const F& f) {
  launch(produce_kernel<U, F>, grid_over(n), block_threads, 0, static_cast<U*>(y.raw()), n, f);
}

}  // namespace weft::cuda
