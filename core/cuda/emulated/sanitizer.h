// What the address sanitizer must be told: which stack runs, and which device memory is in use. Nothing in other builds.
#pragma once

#include <cstddef>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace weft::emulated {

#ifdef __SANITIZE_ADDRESS__
inline constexpr bool address_sanitizer = true;
inline void poison(const void* p, size_t bytes) { __asan_poison_memory_region(p, bytes); }
inline void unpoison(const void* p, size_t bytes) { __asan_unpoison_memory_region(p, bytes); }
/// Before a report ends the process.
inline void before_death(void (*tell)()) { __sanitizer_set_death_callback(tell); }
#else
inline constexpr bool address_sanitizer = false;
inline void poison(const void*, size_t) {}
inline void unpoison(const void*, size_t) {}
inline void before_death(void (*)()) {}
#endif

/// One stack, as the sanitizer sees it. A switch is announced before and completed after: from.start_switch(to), jump, to.finish_switch().
class StackSanitizer {
#ifdef __SANITIZE_ADDRESS__
 public:
  StackSanitizer() = default;  // the stack of an OS thread: where it lies is learned when it is left
  StackSanitizer(const void* bottom, size_t bytes) : bottom_(bottom), bytes_(bytes) {}
  void start_switch(StackSanitizer& to) {
    to.came_from_ = this;
    __sanitizer_start_switch_fiber(&fake_stack_, to.bottom_, to.bytes_);
  }
  void finish_switch() {
    const void* bottom = nullptr;
    size_t bytes = 0;
    __sanitizer_finish_switch_fiber(fake_stack_, &bottom, &bytes);
    if (came_from_->bottom_ == nullptr) {
      came_from_->bottom_ = bottom;
      came_from_->bytes_ = bytes;
    }
  }

 private:
  const void* bottom_ = nullptr;
  size_t bytes_ = 0;
  void* fake_stack_ = nullptr;
  StackSanitizer* came_from_ = nullptr;
#else
 public:
  StackSanitizer() = default;
  StackSanitizer(const void*, size_t) {}
  void start_switch(StackSanitizer&) {}
  void finish_switch() {}
#endif
};

}  // namespace weft::emulated
