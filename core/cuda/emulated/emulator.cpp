#include "weft/core/cuda/emulated/emulator.h"

#include <sys/mman.h>

#include <algorithm>
#include <boost/context/detail/fcontext.hpp>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <vector>

#include "weft/core/cuda/emulated/sanitizer.h"
#include "weft/core/error.h"

namespace weft::emulated {
namespace {

namespace ctx = boost::context::detail;

std::string place(const Location& at) {
  const std::string_view file = at.file_name();
  return format("{}:{}", file.substr(file.find_last_of('/') + 1), static_cast<unsigned long>(at.line()));
}

std::string text(const Index3& i) { return format("({}, {}, {})", i.x, i.y, i.z); }

// ---- one CUDA thread --------------------------------------------------------------------------------------------------------------

constexpr size_t stack_bytes = size_t{128} << 10;

class Stack {
 public:
  // With a page at the lower end that cannot be touched, so that an overflow is a segmentation fault and not a riddle.
  Stack() : base_(static_cast<std::byte*>(mmap(nullptr, guard + stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    WEFT_CHECK(base_ != MAP_FAILED, "emulated CUDA: no memory for the stacks of the threads");
    mprotect(base_, guard, PROT_NONE);
  }
  ~Stack() { munmap(base_, guard + stack_bytes); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  std::byte* bottom() const { return base_ + guard; }
  std::byte* top() const { return bottom() + stack_bytes; }

 private:
  static constexpr size_t guard = 4096;
  std::byte* base_;
};

enum class State { runnable, at_barrier, in_warp, done };

struct Thread {
  Position position;
  int number = 0;  // within the block
  State state = State::runnable;
  const char* op = "";  // what it waits in, and where
  Location at;
  uint32_t mask = 0;
  ctx::fcontext_t context = nullptr;
  FiberSanitizer sanitizer;
  std::shared_ptr<void> storage;
};

// ---- one warp: lanes that exchange values, by the mask that they name ----------------------------------------------------------------

struct Exchange {
  uint32_t mask = 0, arrived = 0;
  unsigned round = 0;
  const char* op = "";
  Lanes lanes[2];  // of this round and of the last, which slow lanes may not have read yet
};

struct Warp {
  std::vector<std::unique_ptr<Exchange>> exchanges;
  Exchange& with(uint32_t mask) {
    for (auto& e : exchanges) {
      if (e->mask == mask) return *e;
    }
    exchanges.push_back(std::make_unique<Exchange>());
    exchanges.back()->mask = mask;
    return *exchanges.back();
  }
};

// ---- one block, and the scheduler ----------------------------------------------------------------------------------------------------

class Emulator {
 public:
  void run(const std::function<void()>& kernel, Size3 grid, Size3 block, size_t dynamic_shared_bytes, const Location& launched_at) {
    std::lock_guard lock(mutex_);
    const unsigned count = block.x * block.y * block.z;
    kernel_ = &kernel;
    launched_at_ = launched_at;
    threads_.resize(count);
    while (stacks_.size() < count) stacks_.push_back(std::make_unique<Stack>());
    DeviceAccess access;
    for (unsigned z = 0; z < grid.z; ++z) {
      for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; ++x) run_block({x, y, z}, grid, block, dynamic_shared_bytes);
      }
    }
  }

  Thread& current() {
    WEFT_CHECK(current_ != nullptr, "emulated CUDA: device code was called outside a kernel");
    return *current_;
  }

  [[noreturn]] void fault_in(const Thread& t, const std::string& what) const {
    fail("emulated CUDA: {}; kernel launched by {} ({}), block {}, thread {}", what, launched_at_.function_name(), place(launched_at_),
         text(t.position.block), text(t.position.thread));
  }

  int block_barrier(bool predicate, const Location& at) {
    Thread& t = current();
    for (const Thread& other : threads_) {
      if (other.state == State::done) {
        fault_in(t, format("__syncthreads at {} that thread {} does not reach: it has returned", place(at), text(other.position.thread)));
      }
      if (other.state == State::at_barrier && place(other.at) != place(at)) {
        fault_in(t, format("__syncthreads at {}, but thread {} waits in the one at {}", place(at), text(other.position.thread),
                           place(other.at)));
      }
    }
    passed_ += predicate ? 1 : 0;
    if (++arrived_ == threads_.size()) {
      result_ = passed_;
      arrived_ = 0;
      passed_ = 0;
      for (Thread& other : threads_) {
        if (other.state == State::at_barrier) other.state = State::runnable;
      }
      yield(State::runnable, "__syncthreads", at);  // the last to come is not the first to go on
    } else {
      yield(State::at_barrier, "__syncthreads", at);
    }
    return result_;
  }

  const Lanes& warp_exchange(uint32_t mask, const uint32_t* words, int count, const char* op, const Location& at) {
    Thread& t = current();
    const int own = t.number % warp_size, first = t.number - own;
    if ((mask >> own & 1U) == 0) fault_in(t, format("{} at {} from lane {}, which its mask does not name", op, place(at), own));
    for (int l = 0; l < warp_size; ++l) {
      if ((mask >> l & 1U) == 0) continue;
      const size_t number = static_cast<size_t>(first + l);
      if (number >= threads_.size()) fault_in(t, format("{} at {} names lane {}, which the block does not have", op, place(at), l));
      if (threads_[number].state == State::done) fault_in(t, format("{} at {} names lane {}, which has returned", op, place(at), l));
    }
    Exchange& e = warps_[static_cast<size_t>(first / warp_size)].with(mask);
    if (e.arrived == 0) e.op = op;
    if (std::strcmp(e.op, op) != 0) fault_in(t, format("{} at {} meets lanes that are in {}", op, place(at), e.op));
    Lanes& lanes = e.lanes[e.round % 2];
    std::copy_n(words, count, lanes.word[own]);
    e.arrived |= 1U << own;
    if (e.arrived == mask) {
      e.arrived = 0;
      ++e.round;
      for (int l = 0; l < warp_size; ++l) {
        if ((mask >> l & 1U) == 0 || l == own) continue;
        threads_[static_cast<size_t>(first + l)].state = State::runnable;
      }
      yield(State::runnable, op, at);
    } else {
      t.mask = mask;
      yield(State::in_warp, op, at);
    }
    return lanes;
  }

  void* shared_memory(const void* site, size_t bytes) {
    auto& memory = shared_[site];
    if (!memory) {
      memory = std::make_unique<std::byte[]>(bytes);
      std::memset(memory.get(), 0xff, bytes);
    }
    return memory.get();
  }

  std::mutex mutex_;
  std::mt19937_64 random_{1};

 private:
  void run_block(const Index3& index, Size3 grid, Size3 block, size_t dynamic_shared_bytes) {
    shared_.clear();
    if (dynamic_shared_bytes > 0) shared_memory(nullptr, dynamic_shared_bytes);
    warps_.clear();
    warps_.resize((threads_.size() + warp_size - 1) / warp_size);
    arrived_ = 0;
    passed_ = 0;
    for (size_t i = 0; i < threads_.size(); ++i) {
      const auto n = static_cast<unsigned>(i);
      Thread& t = threads_[i];
      t = Thread();
      t.position = {{n % block.x, n / block.x % block.y, n / (block.x * block.y)}, index, block, grid};
      t.number = static_cast<int>(i);
      t.sanitizer.set_stack(stacks_[i]->bottom(), stack_bytes);
      t.context = ctx::make_fcontext(stacks_[i]->top(), stack_bytes, &Emulator::enter);
    }
    order_.resize(threads_.size());
    std::iota(order_.begin(), order_.end(), size_t{0});
    for (size_t left = threads_.size(); left > 0;) {
      std::shuffle(order_.begin(), order_.end(), random_);
      bool progress = false;
      for (size_t i : order_) {
        if (threads_[i].state != State::runnable) continue;
        progress = true;
        resume(threads_[i]);
        if (error_) {
          current_ = nullptr;
          std::rethrow_exception(std::exchange(error_, nullptr));  // the other fibers are given up: kernels hold nothing to destroy
        }
        if (threads_[i].state == State::done) --left;
      }
      if (!progress) report_deadlock();
    }
  }

  void resume(Thread& t) {
    current_ = &t;
    scheduler_.start_switch(t.sanitizer);
    const ctx::transfer_t back = ctx::jump_fcontext(t.context, this);
    scheduler_.finish_switch();
    t.context = back.fctx;
    current_ = nullptr;
  }

  void yield(State state, const char* op, const Location& at) {
    Thread& t = *current_;
    t.state = state;
    t.op = op;
    t.at = at;
    t.sanitizer.start_switch(scheduler_);
    return_to_ = ctx::jump_fcontext(return_to_, nullptr).fctx;
    t.sanitizer.finish_switch();
  }

  static void enter(ctx::transfer_t from) {
    auto& self = *static_cast<Emulator*>(from.data);
    self.return_to_ = from.fctx;
    Thread& t = *self.current_;
    t.sanitizer.finish_switch();
    try {
      (*self.kernel_)();
    } catch (...) {
      self.error_ = std::current_exception();
    }
    t.state = State::done;
    t.sanitizer.start_last_switch(self.scheduler_);
    ctx::jump_fcontext(self.return_to_, nullptr);
  }

  [[noreturn]] void report_deadlock() {
    const Thread* waiting = nullptr;
    for (const Thread& t : threads_) {
      if (t.state == State::in_warp || (waiting == nullptr && t.state == State::at_barrier)) waiting = &t;
    }
    std::string others;
    for (const Thread& t : threads_) {
      const bool same_warp = t.number / warp_size == waiting->number / warp_size;
      const bool awaited = waiting->state == State::in_warp ? same_warp && (waiting->mask >> t.number % warp_size & 1U) != 0 : true;
      if (!awaited || (t.state == waiting->state && place(t.at) == place(waiting->at))) continue;
      others = t.state == State::done ? format("thread {} has returned", text(t.position.thread))
                                      : format("thread {} is in {} at {}", text(t.position.thread), t.op, place(t.at));
    }
    fault_in(*waiting, format("{} at {} waits forever: {}", waiting->op, place(waiting->at), others));
  }

  const std::function<void()>* kernel_ = nullptr;
  Location launched_at_;
  std::vector<Thread> threads_;
  std::vector<std::unique_ptr<Stack>> stacks_;
  std::vector<Warp> warps_;
  std::vector<size_t> order_;
  std::map<const void*, std::unique_ptr<std::byte[]>> shared_;
  Thread* current_ = nullptr;
  ctx::fcontext_t return_to_ = nullptr;
  FiberSanitizer scheduler_;
  std::exception_ptr error_;
  size_t arrived_ = 0;
  int passed_ = 0, result_ = 0;
};

Emulator& emulator() {
  static auto* it = new Emulator;
  return *it;
}

}  // namespace

const Position& position() { return emulator().current().position; }
void run(const std::function<void()>& kernel, Size3 grid, Size3 block, size_t dynamic_shared_bytes, const Location& launched_at) {
  emulator().run(kernel, grid, block, dynamic_shared_bytes, launched_at);
}
void fault(const std::string& what) { emulator().fault_in(emulator().current(), what); }
int block_barrier(bool predicate, const Location& at) { return emulator().block_barrier(predicate, at); }
const Lanes& warp_exchange(uint32_t mask, const uint32_t* words, int count, const char* op, const Location& at) {
  return emulator().warp_exchange(mask, words, count, op, at);
}
int lane() { return emulator().current().number % warp_size; }
std::shared_ptr<void>& thread_storage() { return emulator().current().storage; }
void* shared_memory(const void* site, size_t bytes) { return emulator().shared_memory(site, bytes); }
void* dynamic_shared_memory() { return emulator().shared_memory(nullptr, 0); }
void check_alignment(const void* p, size_t alignment) {
  if (reinterpret_cast<uintptr_t>(p) % alignment != 0)
    fault(format("access to {} bytes at an address that is no multiple of that", alignment));
}
void set_seed(uint64_t seed) {
  std::lock_guard lock(emulator().mutex_);
  emulator().random_.seed(seed);
}

}  // namespace weft::emulated
