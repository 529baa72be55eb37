// The runtime calls of cuda_runtime.h.
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "cuda_runtime.h"
#include "weft/core/error.h"

using weft::emulated::DeviceAccess;
using weft::emulated::is_allocated;
using weft::emulated::is_device_address;

struct EmulatedStream {
  int device;
};
struct EmulatedEvent {
  std::chrono::steady_clock::time_point time;
  uint64_t position = 0;
  bool asked = false;
};

namespace {

// Host memory that kernels may read and write: sizes by address.
struct PinnedMemory {
  std::mutex mutex;
  std::map<const std::byte*, size_t> blocks;
};
PinnedMemory& pinned() {
  static auto* it = new PinnedMemory;
  return *it;
}
bool is_pinned(const void* p) {
  PinnedMemory& memory = pinned();
  const std::lock_guard lock(memory.mutex);
  const auto after = memory.blocks.upper_bound(static_cast<const std::byte*>(p));
  if (after == memory.blocks.begin()) return false;
  const auto& [begin, bytes] = *std::prev(after);
  return p <= begin + bytes;
}

}  // namespace

void weft::emulated::check_pointer(const void* p, const Location& launched_at) {
  if (p == nullptr || is_allocated(p, 0) || is_pinned(p)) return;
  fail("emulated CUDA: the kernel launched by {} is given a pointer that is neither memory in use of its device nor pinned memory",
       name_of(launched_at));
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorNotReady:
      return "not ready";
    default:
      return "invalid argument";
  }
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = weft::emulated::devices;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = weft::emulated::current_device();
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= weft::emulated::devices) return cudaErrorInvalidValue;
  weft::emulated::set_current_device(device);
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"emulated", weft::emulated::capacity(), 2, 9, 0};
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 2;  // few, so that loops over a grid take more than one turn
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 227 << 10;
      break;
    case cudaDevAttrL2CacheSize:
      *value = 1 << 20;
      break;
  }
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new EmulatedStream{weft::emulated::current_device()};
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaDeviceSynchronize(); }
cudaError_t cudaDeviceSynchronize() {
  weft::emulated::finish(weft::emulated::queue_position());
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new EmulatedEvent;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  *event = {std::chrono::steady_clock::now(), weft::emulated::queue_position()};
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  weft::emulated::finish(event->position);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (std::exchange(event->asked, true)) weft::emulated::finish(event->position);  // whoever asks again and again gets an answer
  return weft::emulated::is_finished(event->position) ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return cudaSuccess;
}

cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t stream) {
  *p = weft::emulated::allocate(bytes, stream == nullptr ? weft::emulated::current_device() : stream->device);
  return *p == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return weft::emulated::release(p) ? cudaSuccess : cudaErrorInvalidValue; }

cudaError_t cudaMallocHost(void** p, size_t bytes) {
  *p = std::malloc(bytes);
  if (*p == nullptr) return cudaErrorMemoryAllocation;
  const std::lock_guard lock(pinned().mutex);
  pinned().blocks[static_cast<std::byte*>(*p)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) { return cudaMallocHost(p, bytes); }
cudaError_t cudaFreeHost(void* p) {
  cudaDeviceSynchronize();
  const std::lock_guard lock(pinned().mutex);
  if (pinned().blocks.erase(static_cast<std::byte*>(p)) == 0) return cudaErrorInvalidValue;
  std::free(p);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  const bool to_device = is_device_address(to), from_device = is_device_address(from);
  const bool is_kind = kind == cudaMemcpyDefault || (to_device == (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) &&
                                                     from_device == (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice));
  if (!is_kind || (to_device && !is_allocated(to, bytes)) || (from_device && !is_allocated(from, bytes))) return cudaErrorInvalidValue;
  if (is_pinned(to) || is_pinned(from)) {
    weft::emulated::copy_later(to, from, bytes);
    return cudaSuccess;
  }
  const DeviceAccess access;
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device, size_t bytes, cudaStream_t) {
  if (!is_allocated(to, bytes, to_device) || !is_allocated(from, bytes, from_device)) return cudaErrorInvalidValue;
  const DeviceAccess access;
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  if (!is_allocated(p, bytes)) return cudaErrorInvalidValue;
  const DeviceAccess access;
  std::memset(p, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = weft::emulated::capacity();
  *free = *total - weft::emulated::used();
  return cudaSuccess;
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = nullptr;
  return cudaSuccess;
}
