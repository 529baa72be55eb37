// The part of CUDA's runtime and device language that weft uses, for a C++ compiler: included in place of the toolkit's header of the same
// name where -DWEFT_CUDA=EMULATED puts this folder first. Kernels run at once; copies from and to pinned memory happen late.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "weft/core/cuda/emulated/emulator.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__

using dim3 = weft::emulated::Size3;
using uint3 = weft::emulated::Index3;
#define threadIdx (::weft::emulated::position().thread)
#define blockIdx (::weft::emulated::position().block)
#define blockDim (::weft::emulated::position().block_size)
#define gridDim (::weft::emulated::position().grid_size)
constexpr int warpSize = weft::emulated::warp_size;

/// One array per block; the lambda gives every place in the code, in every instantiation, an address of its own.
#define WEFT_SHARED(T, name, count)                                \
  T* const name = static_cast<T*>(::weft::emulated::shared_memory( \
      [] {                                                         \
        static const char site = 0;                                \
        return static_cast<const void*>(&site);                    \
      }(),                                                         \
      sizeof(T) * (count)))
#define WEFT_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(::weft::emulated::dynamic_shared_memory())

// ---- barriers, votes, shuffles ----------------------------------------------------------------------------------------------------------

namespace weft::emulated {

/// The lane whose value `own` receives, given the first lane of its group of `width` and what the call says.
template <class T, class Source>
T shuffle(uint32_t mask, T value, int width, const char* op, const Location& at, Source source) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  constexpr int count = (sizeof(T) + 3) / 4;
  uint32_t words[count] = {};
  std::memcpy(words, &value, sizeof(T));
  if (width > warp_size || !std::has_single_bit(static_cast<unsigned>(width))) {
    fault(std::string(op) + " over a width that is no power of two up to 32");
  }
  const int own = lane(), begin = own / width * width, from = source(own, begin);
  const Lanes& lanes = warp_exchange(mask, words, count, op, at);
  if ((mask >> from & 1U) == 0) fault(std::string(op) + " from lane " + std::to_string(from) + ", which its mask does not name");
  std::memcpy(&value, lanes.word[from], sizeof(T));
  return value;
}

inline void check_distance(unsigned lanes, const char* op) {
  if (lanes >= warp_size) fault(std::string(op) + " over " + std::to_string(lanes) + " lanes");
}

/// Bit l is set where lane l passed `predicate`.
inline uint32_t vote(uint32_t mask, bool predicate, const char* op, const Location& at) {
  const uint32_t word = predicate ? 1 : 0;
  const Lanes& lanes = warp_exchange(mask, &word, 1, op, at);
  uint32_t votes = 0;
  for (int l = 0; l < warp_size; ++l) {
    if ((mask >> l & 1U) != 0) votes |= lanes.word[l][0] << l;
  }
  return votes;
}

template <class T, class F>
T reduce(uint32_t mask, T value, const char* op, const Location& at, F f) {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned>);
  const auto word = std::bit_cast<uint32_t>(value);
  const Lanes& lanes = warp_exchange(mask, &word, 1, op, at);
  uint32_t result = lanes.word[std::countr_zero(mask)][0];
  for (int l = std::countr_zero(mask) + 1; l < warp_size; ++l) {
    if ((mask >> l & 1U) != 0) result = static_cast<uint32_t>(f(static_cast<T>(result), static_cast<T>(lanes.word[l][0])));
  }
  return static_cast<T>(result);
}

}  // namespace weft::emulated

#define WEFT_HERE weft::emulated::Location at = weft::emulated::Location::current()

inline void __syncthreads(WEFT_HERE) { weft::emulated::block_barrier(false, "__syncthreads", at); }
inline int __syncthreads_count(int predicate, WEFT_HERE) {
  return weft::emulated::block_barrier(predicate != 0, "__syncthreads_count", at);
}
inline int __syncthreads_or(int predicate, WEFT_HERE) { return weft::emulated::block_barrier(predicate != 0, "__syncthreads_or", at) > 0; }
inline int __syncthreads_and(int predicate, WEFT_HERE) {
  return weft::emulated::block_barrier(predicate == 0, "__syncthreads_and", at) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffU, WEFT_HERE) { weft::emulated::warp_exchange(mask, nullptr, 0, "__syncwarp", at); }

// Lanes outside the group keep their own value, except that exclusive-or reaches earlier groups too.
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = warpSize, WEFT_HERE) {
  return weft::emulated::shuffle(mask, value, width, "__shfl_sync", at, [=](int, int begin) { return begin + (from & (width - 1)); });
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = warpSize, WEFT_HERE) {
  weft::emulated::check_distance(static_cast<unsigned>(bits), "__shfl_xor_sync");
  return weft::emulated::shuffle(mask, value, width, "__shfl_xor_sync", at,
                                 [=](int own, int begin) { return (own ^ bits) < begin + width ? own ^ bits : own; });
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = warpSize, WEFT_HERE) {
  weft::emulated::check_distance(by, "__shfl_up_sync");
  const int n = static_cast<int>(by);
  return weft::emulated::shuffle(mask, value, width, "__shfl_up_sync", at,
                                 [=](int own, int begin) { return own - n >= begin ? own - n : own; });
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = warpSize, WEFT_HERE) {
  weft::emulated::check_distance(by, "__shfl_down_sync");
  const int n = static_cast<int>(by);
  return weft::emulated::shuffle(mask, value, width, "__shfl_down_sync", at,
                                 [=](int own, int begin) { return own + n < begin + width ? own + n : own; });
}

inline unsigned __ballot_sync(unsigned mask, int predicate, WEFT_HERE) {
  return weft::emulated::vote(mask, predicate != 0, "__ballot_sync", at);
}
inline int __any_sync(unsigned mask, int predicate, WEFT_HERE) { return weft::emulated::vote(mask, predicate != 0, "__any_sync", at) != 0; }
inline int __all_sync(unsigned mask, int predicate, WEFT_HERE) {
  return weft::emulated::vote(mask, predicate != 0, "__all_sync", at) == mask;
}

template <class T>
T __reduce_add_sync(unsigned mask, T value, WEFT_HERE) {
  return weft::emulated::reduce(mask, value, "__reduce_add_sync", at,
                                [](T a, T b) { return static_cast<uint32_t>(a) + static_cast<uint32_t>(b); });
}
template <class T>
T __reduce_min_sync(unsigned mask, T value, WEFT_HERE) {
  return weft::emulated::reduce(mask, value, "__reduce_min_sync", at, [](T a, T b) { return std::min(a, b); });
}
template <class T>
T __reduce_max_sync(unsigned mask, T value, WEFT_HERE) {
  return weft::emulated::reduce(mask, value, "__reduce_max_sync", at, [](T a, T b) { return std::max(a, b); });
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value, WEFT_HERE) {
  return weft::emulated::reduce(mask, value, "__reduce_and_sync", at, [](unsigned a, unsigned b) { return a & b; });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, WEFT_HERE) {
  return weft::emulated::reduce(mask, value, "__reduce_or_sync", at, [](unsigned a, unsigned b) { return a | b; });
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value, WEFT_HERE) {
  return weft::emulated::reduce(mask, value, "__reduce_xor_sync", at, [](unsigned a, unsigned b) { return a ^ b; });
}

#undef WEFT_HERE

// ---- atomics: threads run one at a time, so plain code is atomic ----------------------------------------------------------------------

namespace weft::emulated {
/// Sets *p to f(*p) and returns what it was.
template <class T, class F>
T update(T* p, F f) {
  check_alignment(p, sizeof(T));
  return std::exchange(*p, static_cast<T>(f(*p)));
}
}  // namespace weft::emulated

template <class T>
T atomicAdd(T* p, std::type_identity_t<T> value) {
  return weft::emulated::update(p, [=](T old) { return old + value; });
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> value) {
  return weft::emulated::update(p, [=](T old) { return std::max(old, value); });
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> value) {
  return weft::emulated::update(p, [=](T old) { return std::min(old, value); });
}
template <class T>
T atomicAnd(T* p, std::type_identity_t<T> value) {
  return weft::emulated::update(p, [=](T old) { return old & value; });
}
template <class T>
T atomicOr(T* p, std::type_identity_t<T> value) {
  return weft::emulated::update(p, [=](T old) { return old | value; });
}
template <class T>
T atomicXor(T* p, std::type_identity_t<T> value) {
  return weft::emulated::update(p, [=](T old) { return old ^ value; });
}
template <class T>
T atomicExch(T* p, std::type_identity_t<T> value) {
  return weft::emulated::update(p, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return weft::emulated::update(p, [=](T old) { return old == expected ? value : old; });
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// ---- arithmetic that C++ names differently -------------------------------------------------------------------------------------------

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
template <class T>
T __ldg(const T* p) {
  return *p;
}

// ---- the runtime: errors, devices, memory, streams, events ----------------------------------------------------------------------------

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2, cudaErrorNotReady = 600 };
const char* cudaGetErrorString(cudaError_t error);
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  int multiProcessorCount, major, minor;
};
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrL2CacheSize };
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
  return cudaSuccess;
}

using cudaStream_t = struct EmulatedStream*;
using cudaEvent_t = struct EmulatedEvent*;
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocMapped = 2;
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end);

enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* p, cudaStream_t stream);
cudaError_t cudaMallocHost(void** p, size_t bytes);
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* p);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
using cudaMemPool_t = struct EmulatedPool*;
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold };
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device);
inline cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
inline cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }
