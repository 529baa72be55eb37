// Device memory of the emulation: a range of addresses of its own that is open only while a kernel or a copy runs, so that host code which
// reads a device pointer is a segmentation fault here as it is on a GPU.
#include <sys/mman.h>

#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "weft/core/cuda/emulated/emulator.h"
#include "weft/core/cuda/emulated/sanitizer.h"
#include "weft/core/error.h"

namespace weft::emulated {
namespace {

constexpr size_t reserved = size_t{64} << 30;  // addresses, not memory
constexpr size_t alignment = 256;
constexpr size_t red_zone = 256;  // behind every block: overruns are found by the address sanitizer, writes also without it
constexpr unsigned char canary = 0xcb;

class Arena {
 public:
  Arena() : base_(static_cast<std::byte*>(mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
    WEFT_CHECK(base_ != MAP_FAILED, "emulated CUDA: no address range for device memory");
  }

  void* allocate(size_t bytes) {
    std::lock_guard lock(mutex_);
    const size_t size = (bytes + alignment - 1) / alignment * alignment + red_zone;
    if (used_ + bytes > capacity_) return nullptr;
    size_t offset = end_;
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      if (it->second < size) continue;
      offset = it->first;
      if (it->second > size) free_.emplace(offset + size, it->second - size);
      free_.erase(it);
      break;
    }
    if (offset == end_) {
      if (end_ + size > reserved) return nullptr;
      end_ += size;
    }
    blocks_[offset] = {bytes, size};
    used_ += bytes;
    open();
    std::byte* p = base_ + offset;
    unpoison(p, size);
    std::memset(p, 0xff, bytes);  // NaN
    std::memset(p + bytes, canary, size - bytes);
    poison(p + bytes, size - bytes);
    close();
    return p;
  }

  void release(void* data) {
    std::lock_guard lock(mutex_);
    const auto offset = static_cast<size_t>(static_cast<std::byte*>(data) - base_);
    const auto found = blocks_.find(offset);
    WEFT_CHECK(found != blocks_.end(), "emulated CUDA: free of a pointer that is no device memory in use");
    const auto [bytes, size] = found->second;
    open();
    unpoison(base_ + offset + bytes, size - bytes);
    bool intact = true;
    for (size_t i = bytes; i < size; ++i) intact = intact && base_[offset + i] == std::byte{canary};
    poison(base_ + offset, size);
    close();
    used_ -= bytes;
    blocks_.erase(found);
    auto at = free_.emplace(offset, size).first;  // and joined with its neighbours
    if (auto next = std::next(at); next != free_.end() && at->first + at->second == next->first) {
      at->second += next->second;
      free_.erase(next);
    }
    if (at != free_.begin()) {
      if (auto before = std::prev(at); before->first + before->second == at->first) {
        before->second += at->second;
        free_.erase(at);
      }
    }
    // Memory is released by destructors, so this is reported by the next kernel or copy.
    if (!intact) damage_ = format("emulated CUDA: a kernel wrote beyond the end of an allocation of {} bytes", bytes);
  }

  void enter() {
    std::lock_guard lock(mutex_);
    if (!damage_.empty()) throw Error(std::exchange(damage_, ""));
    open();
  }
  void leave() {
    std::lock_guard lock(mutex_);
    close();
  }

  std::mutex mutex_;
  size_t capacity_ = size_t{4} << 30, used_ = 0;

 private:
  void open() {
    if (open_++ == 0 || opened_ < end_) {
      mprotect(base_, end_, PROT_READ | PROT_WRITE);
      opened_ = end_;
    }
  }
  void close() {
    if (--open_ == 0 && opened_ > 0) mprotect(base_, opened_, PROT_NONE);
  }

  struct Block {
    size_t bytes, size;
  };
  std::byte* base_;
  size_t end_ = 0, opened_ = 0;
  int open_ = 0;
  std::string damage_;
  std::map<size_t, Block> blocks_;
  std::map<size_t, size_t> free_;  // size by offset
};

Arena& arena() {
  static auto* it = new Arena;  // never destroyed: tensors in static storage may outlive it
  return *it;
}

}  // namespace

void* allocate(size_t bytes) { return arena().allocate(bytes); }
void release(void* p) { arena().release(p); }
size_t capacity() { return arena().capacity_; }
size_t used() { return arena().used_; }
void set_capacity(size_t bytes) { arena().capacity_ = bytes; }
DeviceAccess::DeviceAccess() { arena().enter(); }
DeviceAccess::~DeviceAccess() { arena().leave(); }

}  // namespace weft::emulated
