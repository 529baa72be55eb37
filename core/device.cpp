#include "weft/core/device.h"

#include <omp.h>
#include <sys/mman.h>

#include <atomic>
#include <bit>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <new>
#include <string>
#include <system_error>
#include <unordered_map>
#include <vector>

#include "weft/core/cpu/blas.h"
#include "weft/core/cuda/device.h"
#include "weft/core/error.h"
#include "weft/core/threads.h"

namespace weft {
namespace {

// Freed blocks are kept by size: a training step asks for the same sizes again and again, and fresh pages cost a fault each.
class CpuPool {
 public:
  void* take(int64_t bytes) {
    bytes = block_size(bytes);
    {
      std::lock_guard lock(mutex_);
      auto found = free_.find(bytes);
      if (found != free_.end() && !found->second.empty()) {
        void* data = found->second.back();
        found->second.pop_back();
        cached_ -= bytes;
        return data;
      }
    }
    void* data = fresh(bytes);
    if (data == nullptr) {  // perhaps the cache holds what is missing
      release_all();
      data = fresh(bytes);
    }
    return data;
  }

  /// Called by destructors, so it does not throw.
  void give(void* data, int64_t bytes) noexcept {
    bytes = block_size(bytes);
    if (bytes > largest_cached) {
      std::free(data);
      return;
    }
    std::lock_guard lock(mutex_);
    if (cached_ + bytes > most_cached) release_all_locked();
    try {
      free_[bytes].push_back(data);
      cached_ += bytes;
    } catch (const std::bad_alloc&) {
      std::free(data);
    }
  }

  void release_all() {
    std::lock_guard lock(mutex_);
    release_all_locked();
  }

  static constexpr int64_t alignment = 64;

 private:
  // Inputs of varying length ask for ever new sizes. Steps of 1/8 of a power of two let neighbours share blocks; what a block has too much
  // is never touched, so it costs a huge page at most. Sanitizers shall see where a tensor ends.
  static int64_t block_size(int64_t bytes) {
#ifdef WEFT_SANITIZED
    constexpr int64_t exact = std::numeric_limits<int64_t>::max();
#else
    constexpr int64_t exact = int64_t{64} << 10;
#endif
    if (bytes <= exact) return bytes;
    const auto step = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(bytes)) / 8);
    return (bytes + step - 1) / step * step;
  }

  // Large blocks in pages of 2 MB where the system has them: fewer faults at first, and fewer misses when matrices are read in strides.
  static void* fresh(int64_t bytes) {
#ifdef MADV_HUGEPAGE
    constexpr int64_t huge_page = int64_t{2} << 20;
    if (bytes >= 2 * huge_page) {
      void* data = nullptr;  // not aligned_alloc: that takes only sizes which are multiples of the alignment
      if (posix_memalign(&data, huge_page, static_cast<size_t>(bytes)) != 0) return nullptr;
      madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
      return data;
    }
#endif
    return std::aligned_alloc(alignment, static_cast<size_t>(bytes));
  }

  void release_all_locked() {
    for (auto& [bytes, blocks] : free_) {
      for (void* block : blocks) std::free(block);
    }
    free_.clear();
    cached_ = 0;
  }

  static constexpr int64_t largest_cached = int64_t{512} << 20;
  static constexpr int64_t most_cached = int64_t{2} << 30;
  std::mutex mutex_;
  std::unordered_map<int64_t, std::vector<void*>> free_;
  int64_t cached_ = 0;
};

// Never destroyed: tensors in static storage may outlive it.
CpuPool& cpu_pool() {
  static auto* pool = new CpuPool;
  return *pool;
}

std::atomic<bool> tf32{false};
std::atomic<int> chosen_threads{0};  // 0: OpenMP's own choice

std::atomic<int64_t> cpu_in_use{0};
std::atomic<int64_t> cpu_peak{0};

int64_t rounded(int64_t bytes) { return (bytes + CpuPool::alignment - 1) / CpuPool::alignment * CpuPool::alignment; }

// `return on_cuda(...)`, or the error of a build without the backend.
#ifdef WEFT_WITH_CUDA
constexpr bool with_cuda = true;
#define WEFT_ON_CUDA(device, call) return cuda::call
#else
constexpr bool with_cuda = false;
#define WEFT_ON_CUDA(device, call) \
  fail("{}: this build has no CUDA backend, device {} is not available; use Device::cpu(), or build with -DWEFT_CUDA=ON", __func__, device)
#endif

Device& chosen_device() {
  static Device device = Device::cpu();
  return device;
}

}  // namespace

Device default_device() { return chosen_device(); }
void set_default_device(Device device) { chosen_device() = parse_device(to_string(device)); }

std::string to_string(Device device) { return device.is_cuda() ? "cuda:" + std::to_string(device.index) : "cpu"; }

Device parse_device(const std::string& text) {
  if (text == "cpu") return Device::cpu();
  const bool is_cuda = text == "cuda" || text.starts_with("cuda:");
  int index = 0;
  bool is_number = text == "cuda";
  if (is_cuda && !is_number) {
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + 5, end, index);
    is_number = error == std::errc() && stop == end && index >= 0;
  }
  WEFT_CHECK(is_number, "device: expected cpu, cuda or cuda:N, got \"{}\"", text);
  WEFT_CHECK(with_cuda, "device: this build has no CUDA backend, \"{}\" is not available; use \"cpu\", or build with -DWEFT_CUDA=ON", text);
  const int count = cuda_device_count();
  WEFT_CHECK(count > 0, "device: no CUDA device was found (is the NVIDIA driver loaded?), \"{}\" is not available; use \"cpu\"", text);
  WEFT_CHECK(index < count, "device: \"{}\" does not exist, this machine has {} CUDA device{}", text, count, count == 1 ? "" : "s");
  return Device::cuda(index);
}

int cuda_device_count() {
#ifdef WEFT_WITH_CUDA
  return cuda::device_count();
#else
  return 0;
#endif
}

std::string device_description(Device device) {
  if (device.is_cuda()) WEFT_ON_CUDA(device, description(device.index));
  return cpu::blas_description();
}

void* allocate(int64_t bytes, Device device) {
  if (bytes == 0) return nullptr;
  if (device.is_cuda()) WEFT_ON_CUDA(device, allocate(bytes, device.index));
  const int64_t size = rounded(bytes);
  void* data = cpu_pool().take(size);
  if (data == nullptr) {
    throw OutOfMemory(format("allocate: out of memory on cpu: asked for {} bytes, {} in use", bytes, bytes_in_use(device)));
  }
  const int64_t now = cpu_in_use.fetch_add(size) + size;
  int64_t peak = cpu_peak.load();
  while (now > peak && !cpu_peak.compare_exchange_weak(peak, now)) {
  }
  return data;
}

void release(void* data, int64_t bytes, Device device) {
  if (data == nullptr) return;
  if (device.is_cuda()) WEFT_ON_CUDA(device, release(data, bytes, device.index));
  cpu_in_use.fetch_sub(rounded(bytes));
  cpu_pool().give(data, rounded(bytes));
}

void copy_bytes(void* to, Device to_device, const void* from, Device from_device, int64_t bytes) {
  if (bytes == 0) return;
  if (to_device.is_cuda() || from_device.is_cuda()) {
    [[maybe_unused]] const auto number = [](Device device) { return device.is_cuda() ? device.index : -1; };
    WEFT_ON_CUDA(to_device.is_cuda() ? to_device : from_device, copy_bytes(to, number(to_device), from, number(from_device), bytes));
  }
  std::memcpy(to, from, static_cast<size_t>(bytes));
}

void synchronize(Device device) {
  if (device.is_cuda()) WEFT_ON_CUDA(device, synchronize(device.index));
}

int64_t bytes_in_use(Device device) {
  if (device.is_cuda()) WEFT_ON_CUDA(device, bytes_in_use(device.index));
  return cpu_in_use.load();
}
int64_t peak_bytes(Device device) {
  if (device.is_cuda()) WEFT_ON_CUDA(device, peak_bytes(device.index));
  return cpu_peak.load();
}
void reset_peak_bytes(Device device) {
  if (device.is_cuda()) WEFT_ON_CUDA(device, reset_peak_bytes(device.index));
  cpu_peak.store(cpu_in_use.load());
}
void release_cached_memory(Device device) {
  if (device.is_cuda()) WEFT_ON_CUDA(device, release_cached_memory(device.index));
  cpu_pool().release_all();
}

int num_threads() {
  const int chosen = chosen_threads.load(std::memory_order_relaxed);
  return chosen != 0 ? chosen : omp_get_max_threads();
}
void set_num_threads(int threads) {
  WEFT_CHECK(threads >= 1 && threads <= most_threads, "set_num_threads: expected 1 to {} threads, got {}", most_threads, threads);
  chosen_threads.store(threads, std::memory_order_relaxed);
}

bool tf32_allowed() { return tf32.load(std::memory_order_relaxed); }
void allow_tf32(bool allowed) { tf32.store(allowed, std::memory_order_relaxed); }

}  // namespace weft
