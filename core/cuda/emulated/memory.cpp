// Device memory of the emulation: a range of addresses of its own that is open only while a kernel or a copy runs, so that host code which
// reads a device pointer is a segmentation fault here as it is on a GPU.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <iterator>
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
constexpr size_t page = size_t{2} << 20;       // huge pages: opening and closing many small ones costs more than most kernels
constexpr size_t alignment = 256;
constexpr size_t red_zone = 256;  // behind every block, and at least as much: what is written there is found
constexpr int canary = 0xcb, not_a_number = 0xff;

class Arena {
 public:
  Arena() {
    void* p = mmap(nullptr, reserved + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    WEFT_CHECK(p != MAP_FAILED, "emulated CUDA: no address range for device memory");
    base_ = static_cast<std::byte*>(p) + (page - reinterpret_cast<uintptr_t>(p) % page) % page;
    madvise(base_, reserved, MADV_HUGEPAGE);
  }

  void* allocate(size_t bytes, int device) {
    const std::lock_guard lock(mutex_);
    if (bytes > capacity_ || used_ > capacity_ - bytes) return nullptr;
    const size_t size = (bytes + alignment - 1) / alignment * alignment + red_zone;
    size_t offset = end_;
    const auto gap = std::find_if(free_.begin(), free_.end(), [&](const auto& g) { return g.second >= size; });
    if (gap != free_.end()) {
      offset = gap->first;
      if (gap->second > size) free_.emplace(offset + size, gap->second - size);
      free_.erase(gap);
    } else {
      if (end_ + size > reserved) return nullptr;
      end_ += size;
    }
    blocks_[offset] = {bytes, size, device};
    used_ += bytes;
    std::byte* p = base_ + offset;
    unpoison(p, bytes);
    poison(p + bytes, size - bytes);
    queue_.push_back({p, nullptr, bytes, not_a_number});
    if (!address_sanitizer) queue_.push_back({p + bytes, nullptr, size - bytes, canary});
    return p;
  }

  bool release(void* data) {
    const std::lock_guard lock(mutex_);
    const auto found = is_inside(data) ? blocks_.find(offset_of(data)) : blocks_.end();
    if (found == blocks_.end()) {  // destructors cannot report it
      misuse_ = "emulated CUDA: free of a pointer that is no device memory in use";
      return false;
    }
    const size_t offset = found->first, size = found->second.size;
    used_ -= found->second.bytes;
    blocks_.erase(found);
    if (address_sanitizer) {
      finish_locked(position_locked());
      poison(base_ + offset, size);
    } else {
      queue_.push_back({base_ + offset, nullptr, size, not_a_number});  // kernels may still hold a pointer to it
    }
    auto at = free_.emplace(offset, size).first;  // and joined with its neighbours
    if (const auto next = std::next(at); next != free_.end() && at->first + at->second == next->first) {
      at->second += next->second;
      free_.erase(next);
    }
    if (at != free_.begin()) {
      if (const auto before = std::prev(at); before->first + before->second == at->first) {
        before->second += at->second;
        free_.erase(at);
      }
    }
    return true;
  }

  void copy_later(void* to, const void* from, size_t bytes) {
    const std::lock_guard lock(mutex_);
    queue_.push_back({static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes, 0});
  }
  uint64_t position() {
    const std::lock_guard lock(mutex_);
    return position_locked();
  }
  bool is_finished(uint64_t position) {
    const std::lock_guard lock(mutex_);
    return position <= finished_;
  }
  void finish(uint64_t position) {
    const std::lock_guard lock(mutex_);
    finish_locked(position);
  }

  void enter() {
    const std::lock_guard lock(mutex_);
    if (!misuse_.empty()) throw Error(std::exchange(misuse_, ""));
    open();
    work_off(position_locked());
  }
  void leave() {
    const std::lock_guard lock(mutex_);
    close();
  }

  // While the memory is open. Looks at so many blocks at most, in turn, that many tensors do not make every kernel slow.
  std::string find_overrun() {
    if (address_sanitizer) return "";
    const std::lock_guard lock(mutex_);
    work_off(position_locked());  // what other host threads allocated meanwhile
    constexpr size_t most = 1024;
    const bool all = blocks_.size() <= most;
    std::string found;
    auto at = all ? blocks_.begin() : blocks_.lower_bound(next_checked_);
    for (size_t i = 0, n = std::min(blocks_.size(), most); i < n; ++i) {
      if (at == blocks_.end()) at = blocks_.begin();
      const auto& [offset, block] = *at++;
      std::byte* zone = base_ + offset + block.bytes;
      size_t changed = block.size - block.bytes;
      if (zone[0] == std::byte{canary} && std::memcmp(zone, zone + 1, changed - 1) == 0) continue;
      while (zone[changed - 1] == std::byte{canary}) --changed;
      found = format("wrote up to {} bytes beyond the end of an allocation of {} bytes", changed, block.bytes);
      if (!all) found += format(", or an earlier kernel did (of {} allocations, {} are looked at after each kernel)", blocks_.size(), most);
      std::memset(zone, canary, changed);
    }
    next_checked_ = at == blocks_.end() ? 0 : at->first;
    return found;
  }

  bool is_inside(const void* p) const { return p >= base_ && p < base_ + reserved; }
  bool is_allocated(const void* p, size_t bytes, int device) {
    const std::lock_guard lock(mutex_);
    if (!is_inside(p)) return false;
    const auto after = blocks_.upper_bound(offset_of(p));
    if (after == blocks_.begin()) return false;
    const auto& [offset, block] = *std::prev(after);
    const size_t skipped = offset_of(p) - offset;
    return block.device == device && skipped <= block.bytes && bytes <= block.bytes - skipped;
  }

  void set_capacity(size_t bytes) {
    const std::lock_guard lock(mutex_);
    capacity_ = bytes;
  }
  size_t capacity() {
    const std::lock_guard lock(mutex_);
    return capacity_;
  }
  size_t used() {
    const std::lock_guard lock(mutex_);
    return used_;
  }

 private:
  struct Block {
    size_t bytes, size;  // asked for; with the red zone
    int device;
  };

  size_t offset_of(const void* p) const { return static_cast<size_t>(static_cast<const std::byte*>(p) - base_); }

  void open() {
    const size_t wanted = (end_ + page - 1) / page * page;
    if (entered_++ == 0 || opened_ < wanted) {
      opened_ = wanted;
      mprotect(base_, opened_, PROT_READ | PROT_WRITE);
    }
  }
  void close() {
    if (--entered_ == 0) mprotect(base_, opened_, PROT_NONE);
  }

  // What waits for the memory to be open.
  struct Operation {
    std::byte* to;
    const std::byte* from;  // none: the bytes are set to `value`
    size_t bytes;
    int value;
  };
  uint64_t position_locked() const { return finished_ + queue_.size(); }
  void finish_locked(uint64_t position) {
    if (position <= finished_) return;
    open();
    work_off(position);
    close();
  }
  void work_off(uint64_t position) {
    for (; finished_ < position; ++finished_) {
      const Operation& next = queue_.front();
      if (next.from != nullptr) {
        std::memcpy(next.to, next.from, next.bytes);
      } else {
        std::memset(next.to, next.value, next.bytes);
      }
      queue_.pop_front();
    }
  }

  std::mutex mutex_;
  std::byte* base_ = nullptr;
  size_t capacity_ = size_t{4} << 30, used_ = 0;
  size_t end_ = 0, opened_ = 0;
  int entered_ = 0;
  std::string misuse_;
  std::map<size_t, Block> blocks_;  // by offset
  size_t next_checked_ = 0;         // offset
  std::map<size_t, size_t> free_;   // size by offset
  std::deque<Operation> queue_;
  uint64_t finished_ = 0;  // operations ever worked off
};

thread_local int device_of_thread = 0;

Arena& arena() {
  static auto* it = new Arena;  // never destroyed: tensors in static storage may outlive it
  return *it;
}

}  // namespace

int current_device() { return device_of_thread; }
void set_current_device(int device) { device_of_thread = device; }
void* allocate(size_t bytes, int device) { return arena().allocate(bytes, device); }
bool release(void* p) { return arena().release(p); }
size_t capacity() { return arena().capacity(); }
size_t used() { return arena().used(); }
void set_capacity(size_t bytes) { arena().set_capacity(bytes); }
bool is_device_address(const void* p) { return arena().is_inside(p); }
bool is_allocated(const void* p, size_t bytes, int device) { return arena().is_allocated(p, bytes, device); }
std::string find_overrun() { return arena().find_overrun(); }
void copy_later(void* to, const void* from, size_t bytes) { arena().copy_later(to, from, bytes); }
uint64_t queue_position() { return arena().position(); }
bool is_finished(uint64_t position) { return arena().is_finished(position); }
void finish(uint64_t position) { arena().finish(position); }
DeviceAccess::DeviceAccess() { arena().enter(); }
DeviceAccess::~DeviceAccess() { arena().leave(); }

}  // namespace weft::emulated
