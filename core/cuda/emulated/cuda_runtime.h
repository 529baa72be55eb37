// The part of CUDA's runtime and device language that weft uses, for a C++ compiler: included in place of the toolkit's header of the same
// name where -DWEFT_CUDA=EMULATED puts this folder first. Streams and events are synchronous.
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

/// A value of up to 16 bytes as the words that lanes exchange.
template <class T>
struct Words {
  static constexpr int count = (sizeof(T) + 3) / 4;
  uint32_t word[count] = {};
  explicit Words(const T& value) { std::memcpy(word, &value, sizeof(T)); }
  static T value(const uint32_t* words) {
    T out;
    std::memcpy(&out, words, sizeof(T));
    return out;
  }
};

/// `source(own)` is the lane whose value a lane receives; outside the segment of `width` lanes it keeps its own.
template <class T, class Source>
T shuffle(uint32_t mask, T value, int width, const char* op, const Location& at, Source source) {
  const Words<T> words(value);
  const Lanes& lanes = warp_exchange(mask, words.word, Words<T>::count, op, at);
  const int own = lane(), begin = own / width * width, from = source(own - begin, width);
  const int chosen = from < 0 || from >= width ? own : begin + from;
  if ((mask >> chosen & 1U) == 0) fault(std::string(op) + " from a lane that its mask does not name");
  return Words<T>::value(lanes.word[chosen]);
}

}  // namespace weft::emulated

#define WEFT_HERE weft::emulated::Location at = weft::emulated::Location::current()

inline void __syncthreads(WEFT_HERE) { weft::emulated::block_barrier(false, at); }
inline int __syncthreads_count(int predicate, WEFT_HERE) { return weft::emulated::block_barrier(predicate != 0, at); }
inline int __syncthreads_or(int predicate, WEFT_HERE) { return weft::emulated::block_barrier(predicate != 0, at) > 0; }
inline int __syncthreads_and(int predicate, WEFT_HERE) { return weft::emulated::block_barrier(predicate == 0, at) == 0; }
inline void __syncwarp(unsigned mask = 0xffffffffU, WEFT_HERE) { weft::emulated::warp_exchange(mask, nullptr, 0, "__syncwarp", at); }

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = warpSize, WEFT_HERE) {
  return weft::emulated::shuffle(mask, value, width, "__shfl_sync", at, [=](int, int w) { return ((from % w) + w) % w; });
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = warpSize, WEFT_HERE) {
  return weft::emulated::shuffle(mask, value, width, "__shfl_xor_sync", at, [=](int own, int) { return own ^ bits; });
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = warpSize, WEFT_HERE) {
  return weft::emulated::shuffle(mask, value, width, "__shfl_up_sync", at, [=](int own, int) { return own - static_cast<int>(by); });
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = warpSize, WEFT_HERE) {
  return weft::emulated::shuffle(mask, value, width, "__shfl_down_sync", at, [=](int own, int) { return own + static_cast<int>(by); });
}
inline unsigned __ballot_sync(unsigned mask, int predicate, WEFT_HERE) {
  const uint32_t word = predicate != 0;
  const weft::emulated::Lanes& lanes = weft::emulated::warp_exchange(mask, &word, 1, "__ballot_sync", at);
  unsigned votes = 0;
  for (int l = 0; l < warpSize; ++l) {
    if ((mask >> l & 1U) != 0 && lanes.word[l][0] != 0) votes |= 1U << l;
  }
  return votes;
}
inline int __any_sync(unsigned mask, int predicate, WEFT_HERE) { return __ballot_sync(mask, predicate, at) != 0; }
inline int __all_sync(unsigned mask, int predicate, WEFT_HERE) { return __ballot_sync(mask, predicate, at) == mask; }

#undef WEFT_HERE

// ---- atomics: threads run one at a time, so plain code is atomic
// -------------------------------------------------------------------------

template <class T>
T atomicAdd(T* p, std::type_identity_t<T> value) {
  return std::exchange(*p, static_cast<T>(*p + value));
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> value) {
  return std::exchange(*p, std::max(*p, value));
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> value) {
  return std::exchange(*p, std::min(*p, value));
}
template <class T>
T atomicOr(T* p, std::type_identity_t<T> value) {
  return std::exchange(*p, static_cast<T>(*p | value));
}
template <class T>
T atomicExch(T* p, std::type_identity_t<T> value) {
  return std::exchange(*p, value);
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  const T old = *p;
  if (old == expected) *p = value;
  return old;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// ---- the runtime: errors, devices, memory, streams, events
// ---------------------------------------------------------------------------------

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
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
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
