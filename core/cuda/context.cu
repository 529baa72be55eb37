#include "weft/core/cuda/context.h"

#include <atomic>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "weft/core/cuda/device.h"
#include "weft/core/error.h"

namespace weft::cuda {
namespace {

std::atomic<int64_t> synchronizations{0};
thread_local int current_device = 0;

// Bytes on their way to the device, in pinned memory: the copy engine reads them there while the host goes on. A ring; a piece is free
// again when the event behind its copy has passed.
class Staging {
 public:
  static constexpr size_t capacity = size_t{32} << 20, largest_piece = capacity / 4;

  void copy(void* to, const void* from, size_t bytes, cudaStream_t stream) {
    std::lock_guard lock(mutex_);
    if (ring_ == nullptr) {
      void* p = nullptr;
      check(cudaMallocHost(&p, capacity), "pinned memory for copies to the device");
      ring_ = static_cast<std::byte*>(p);
    }
    for (size_t done = 0; done < bytes;) {
      const size_t n = std::min(bytes - done, largest_piece);
      std::byte* piece = take(n);
      std::memcpy(piece, static_cast<const std::byte*>(from) + done, n);
      check(cudaMemcpyAsync(static_cast<std::byte*>(to) + done, piece, n, cudaMemcpyHostToDevice, stream), "copy to the device");
      check(cudaEventRecord(pending_.back().event, stream), "copy to the device");
      done += n;
    }
  }

 private:
  struct Piece {
    size_t begin, end;
    cudaEvent_t event;
  };

  std::byte* take(size_t bytes) {
    if (head_ + bytes > capacity) {  // back to the start: what is left of the last round lies behind
      while (!pending_.empty() && pending_.front().begin >= head_) reuse_oldest();
      head_ = 0;
    }
    const size_t begin = head_, end = head_ + bytes;
    while (!pending_.empty() && pending_.front().begin < end && begin < pending_.front().end) reuse_oldest();
    cudaEvent_t event = nullptr;
    if (spare_.empty()) {
      check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "copy to the device");
    } else {
      event = spare_.back();
      spare_.pop_back();
    }
    pending_.push_back({begin, end, event});
    head_ = (end + 255) / 256 * 256;
    return ring_ + begin;
  }
  void reuse_oldest() {
    if (cudaEventQuery(pending_.front().event) != cudaSuccess) {  // the ring is full of bytes that have not left yet
      cudaGetLastError();
      check(cudaEventSynchronize(pending_.front().event), "copy to the device");
    }
    spare_.push_back(pending_.front().event);
    pending_.pop_front();
  }

  std::mutex mutex_;
  std::byte* ring_ = nullptr;
  size_t head_ = 0;
  std::deque<Piece> pending_;
  std::vector<cudaEvent_t> spare_;
};

struct DeviceState {
  Context context;
  Staging staging;
  Complaint* complaint = nullptr;
  std::atomic<int64_t> in_use{0}, peak{0};
};

std::vector<std::string>& complaint_messages() {
  static auto* messages = new std::vector<std::string>{""};
  return *messages;
}
std::mutex complaint_mutex;

std::unique_ptr<DeviceState> make_state(int index) {
  auto state = std::make_unique<DeviceState>();
  check(cudaSetDevice(index), format("cuda:{}", index));
  struct Back {
    ~Back() { cudaSetDevice(current_device); }
  } back;
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index), "device");
  WEFT_CHECK(properties.major >= 8, "cuda:{}: {} has compute capability {}.{}, and weft's kernels are for 8.0 or newer", index,
             static_cast<const char*>(properties.name), properties.major, properties.minor);
  Context& c = state->context;
  c.index = index;
  check(cudaStreamCreateWithFlags(&c.stream, cudaStreamNonBlocking), "stream");
  check(cublasCreate(&c.blas), "cuBLAS");
  check(cublasSetStream(c.blas, c.stream), "cuBLAS");
  // Where a product is cut along k, its parts are added up in float32 too.
  check(cublasSetMathMode(c.blas, static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)),
        "cuBLAS");
  check(cublasLtCreate(&c.blas_lt), "cuBLASLt");
  check(cudaDeviceGetAttribute(&c.processors, cudaDevAttrMultiProcessorCount, index), "device");
  check(cudaDeviceGetAttribute(&c.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, index), "device");
  // Freed memory stays with the process: a training step asks for the same sizes again and again.
  cudaMemPool_t pool = nullptr;
  check(cudaDeviceGetDefaultMemPool(&pool, index), "memory pool");
  uint64_t threshold = ~uint64_t{0};
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold), "memory pool");
  void* p = nullptr;
  check(cudaHostAlloc(&p, sizeof(Complaint), cudaHostAllocMapped), "pinned memory");
  state->complaint = new (p) Complaint{};
  return state;
}

// Never destroyed: tensors in static storage may outlive them.
DeviceState& state_of(int index) {
  static auto* mutex = new std::mutex;
  static auto* states = new std::vector<std::unique_ptr<DeviceState>>;
  std::lock_guard lock(*mutex);
  if (states->empty()) states->resize(static_cast<size_t>(device_count()));
  WEFT_CHECK(index >= 0 && index < static_cast<int>(states->size()), "cuda:{}: this machine has {} CUDA devices", index, states->size());
  auto& state = (*states)[static_cast<size_t>(index)];
  if (!state) state = make_state(index);
  return *state;
}

void wait(DeviceState& state) {
  ++synchronizations;
  check(cudaStreamSynchronize(state.context.stream), "waiting for the device");
  const Complaint found = *state.complaint;
  if (found.site == 0) return;
  *state.complaint = {};
  std::lock_guard lock(complaint_mutex);
  fail(complaint_messages()[static_cast<size_t>(found.site)], found.index, found.place);
}

}  // namespace

Context& context() { return state_of(current_device).context; }
Complaint* complaint() { return state_of(current_device).complaint; }

int32_t complaint_site(const std::string& message) {
  std::lock_guard lock(complaint_mutex);
  auto& messages = complaint_messages();
  static auto* numbers = new std::unordered_map<std::string, int32_t>;
  const auto [at, fresh] = numbers->try_emplace(message, static_cast<int32_t>(messages.size()));
  if (fresh) messages.push_back(message);
  return at->second;
}

void check(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // a launch that failed does not fail the next one
  const bool lost = cudaDeviceSynchronize() == error;
  cudaGetLastError();
  throw DeviceError(format("{}: CUDA error {}: {}{}", what, static_cast<int>(error), cudaGetErrorString(error),
                           lost ? " (a kernel that was started earlier failed, and CUDA is lost to this process; CUDA_LAUNCH_BLOCKING=1 or "
                                  "compute-sanitizer tell which)"
                                : ""));
}
void check(cublasStatus_t status, std::string_view what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError(format("{}: cuBLAS error {}: {}", what, static_cast<int>(status), cublasGetStatusString(status)));
}

int device_count() {
  static const int count = [] {
    int n = 0;
    const cudaError_t error = cudaGetDeviceCount(&n);  // no driver, or none that suits: no device
    cudaGetLastError();
    return error == cudaSuccess ? n : 0;
  }();
  return count;
}

std::string description(int index) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index), format("cuda:{}", index));
  return format("{}, {} multiprocessors, {} GiB", static_cast<const char*>(properties.name), properties.multiProcessorCount,
                static_cast<long>(properties.totalGlobalMem >> 30));
}

void* allocate(int64_t bytes, int index) {
  DeviceState& state = state_of(index);
  DeviceScope scope(index);
  void* data = nullptr;
  cudaError_t error = cudaMallocAsync(&data, static_cast<size_t>(bytes), state.context.stream);
  if (error == cudaErrorMemoryAllocation) {  // perhaps the pool holds what is missing
    cudaGetLastError();
    release_cached_memory(index);
    error = cudaMallocAsync(&data, static_cast<size_t>(bytes), state.context.stream);
  }
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "device memory");
    throw OutOfMemory(format("allocate: out of memory on cuda:{}: asked for {} bytes, {} in use by tensors, {} of {} free", index, bytes,
                             state.in_use.load(), free, total));
  }
  check(error, "allocate");
  const int64_t now = state.in_use.fetch_add(bytes) + bytes;
  int64_t peak = state.peak.load();
  while (now > peak && !state.peak.compare_exchange_weak(peak, now)) {
  }
  return data;
}

void release(void* data, int64_t bytes, int index) noexcept {
  if (data == nullptr) return;
  try {
    DeviceState& state = state_of(index);
    DeviceScope scope(index);
    state.in_use.fetch_sub(bytes);
    if (cudaFreeAsync(data, state.context.stream) != cudaSuccess) cudaGetLastError();  // if it matters, the next call fails as well
  } catch (...) {                                                                      // the driver is gone: so is the memory
  }
}

int64_t bytes_in_use(int index) { return state_of(index).in_use.load(); }
int64_t peak_bytes(int index) { return state_of(index).peak.load(); }
void reset_peak_bytes(int index) { state_of(index).peak.store(bytes_in_use(index)); }

void release_cached_memory(int index) {
  DeviceState& state = state_of(index);
  cudaStreamSynchronize(state.context.stream);
  ++synchronizations;
  cudaMemPool_t pool = nullptr;
  check(cudaDeviceGetDefaultMemPool(&pool, index), "memory pool");
  check(cudaMemPoolTrimTo(pool, 0), "memory pool");
}

void copy_bytes(void* to, int to_index, const void* from, int from_index, int64_t bytes) {
  if (bytes == 0) return;
  const auto size = static_cast<size_t>(bytes);
  if (from_index < 0) {
    DeviceState& state = state_of(to_index);
    DeviceScope scope(to_index);
    state.staging.copy(to, from, size, state.context.stream);
  } else if (to_index < 0) {
    DeviceState& state = state_of(from_index);
    DeviceScope scope(from_index);
    check(cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToHost, state.context.stream), "copy to the host");
    wait(state);
  } else if (to_index == from_index) {
    DeviceState& state = state_of(to_index);
    DeviceScope scope(to_index);
    check(cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, state.context.stream), "copy");
  } else {
    DeviceState& source = state_of(from_index);
    wait(source);  // two devices have two streams
    DeviceScope scope(to_index);
    DeviceState& target = state_of(to_index);
    check(cudaMemcpyPeerAsync(to, to_index, from, from_index, size, target.context.stream), "copy between devices");
    wait(target);
  }
}

void synchronize(int index) { wait(state_of(index)); }
int64_t synchronization_count() { return synchronizations.load(); }

double time_ms(const std::function<void()>& run, int index) {
  DeviceState& state = state_of(index);
  DeviceScope scope(index);
  int cache_bytes = 0;
  check(cudaDeviceGetAttribute(&cache_bytes, cudaDevAttrL2CacheSize, index), "device");
  const int64_t flushed = 2 * static_cast<int64_t>(cache_bytes);
  void* other = allocate(flushed, index);
  check(cudaMemsetAsync(other, 0, static_cast<size_t>(flushed), state.context.stream), "time_ms");
  release(other, flushed, index);
  struct Event {
    cudaEvent_t it = nullptr;
    Event() { check(cudaEventCreate(&it), "time_ms"); }
    ~Event() { cudaEventDestroy(it); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
  } start, end;
  check(cudaEventRecord(start.it, state.context.stream), "time_ms");
  run();
  check(cudaEventRecord(end.it, state.context.stream), "time_ms");
  wait(state);
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, start.it, end.it), "time_ms");
  return static_cast<double>(milliseconds);
}

DeviceScope::DeviceScope(int index) : previous_(current_device) {
  if (index == current_device) return;
  check(cudaSetDevice(index), format("cuda:{}", index));
  current_device = index;
}
DeviceScope::~DeviceScope() {
  if (previous_ == current_device) return;
  cudaSetDevice(previous_);
  current_device = previous_;
}

}  // namespace weft::cuda
