// What the address sanitizer must be told: which stack runs, and which device memory is in use. Nothing in other builds.
#pragma once

#include <cstddef>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace weft::emulated {

/// One fiber, as the sanitizer sees it. Switches are announced before and completed after: a.start_switch(b), jump, b.finish_switch().
class FiberSanitizer {
#ifdef __SANITIZE_ADDRESS__
 public:
  void set_stack(void* bottom, size_t bytes) {
    bottom_ = bottom;
    bytes_ = bytes;
    __asan_unpoison_memory_region(bottom, bytes);  // an earlier fiber may have been given up in the middle
  }
  void start_switch(FiberSanitizer& to) { start(&fake_stack_, to); }
  /// From a fiber that does not come back.
  void start_last_switch(FiberSanitizer& to) { start(nullptr, to); }
  void finish_switch() {
    const void* bottom = nullptr;
    size_t bytes = 0;
    __sanitizer_finish_switch_fiber(fake_stack_, &bottom, &bytes);
    if (came_from_ != nullptr && came_from_->bottom_ == nullptr) {  // the scheduler runs on the stack of whoever launched the kernel
      came_from_->bottom_ = bottom;
      came_from_->bytes_ = bytes;
    }
  }

 private:
  void start(void** save, FiberSanitizer& to) {
    to.came_from_ = this;
    __sanitizer_start_switch_fiber(save, to.bottom_, to.bytes_);
  }
  const void* bottom_ = nullptr;
  size_t bytes_ = 0;
  void* fake_stack_ = nullptr;
  FiberSanitizer* came_from_ = nullptr;
#else
 public:
  void set_stack(void*, size_t) {}
  void start_switch(FiberSanitizer&) {}
  void start_last_switch(FiberSanitizer&) {}
  void finish_switch() {}
#endif
};

#ifdef __SANITIZE_ADDRESS__
inline void poison(const void* p, size_t bytes) { __asan_poison_memory_region(p, bytes); }
inline void unpoison(const void* p, size_t bytes) { __asan_unpoison_memory_region(p, bytes); }
#else
inline void poison(const void*, size_t) {}
inline void unpoison(const void*, size_t) {}
#endif

}  // namespace weft::emulated
