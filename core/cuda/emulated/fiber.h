// Fibers of Boost.Context: stacks that the processor switches between in a few nanoseconds, within one OS thread.
#pragma once

#include <sys/mman.h>

#include <boost/context/detail/fcontext.hpp>
#include <cstddef>

#include "weft/core/cuda/emulated/sanitizer.h"
#include "weft/core/error.h"

namespace weft::emulated {

class Fiber {
 public:
  using Transfer = boost::context::detail::transfer_t;

  /// The OS thread that launches kernels.
  Fiber() = default;

  /// Runs `body`, which begins with arrived(transfer) and never returns, on a stack of its own at the first switch to it.
  Fiber(void (*body)(Transfer), size_t number) {
    stack_ = mmap(nullptr, guard + stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    WEFT_CHECK(stack_ != MAP_FAILED, "emulated CUDA: no memory for the stacks of the threads");
    // A page at the lower end that cannot be touched: an overflow is a segmentation fault and not a riddle.
    mprotect(stack_, guard, PROT_NONE);
    std::byte* bottom = static_cast<std::byte*>(stack_) + guard;
    sanitizer_ = StackSanitizer(bottom, stack_bytes);
    // Tops at different places of their pages: at the same one, all would share a few sets of the processor's cache.
    const size_t unused = number % 32 * 128;
    context_ = boost::context::detail::make_fcontext(bottom + stack_bytes - unused, stack_bytes - unused, body);
  }
  ~Fiber() {
    if (stack_ != nullptr) munmap(stack_, guard + stack_bytes);
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// From this fiber, which runs, to another; returns when something switches back.
  void switch_to(Fiber& other) {
    sanitizer_.start_switch(other.sanitizer_);
    arrived(boost::context::detail::jump_fcontext(other.context_, this));
  }
  void arrived(Transfer from) {
    static_cast<Fiber*>(from.data)->context_ = from.fctx;
    sanitizer_.finish_switch();
  }

 private:
  static constexpr size_t guard = 4096, stack_bytes = size_t{256} << 10;
  void* stack_ = nullptr;
  boost::context::detail::fcontext_t context_ = nullptr;
  StackSanitizer sanitizer_;
};

}  // namespace weft::emulated
