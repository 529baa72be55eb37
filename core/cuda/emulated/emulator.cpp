#include "weft/core/cuda/emulated/emulator.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "weft/core/cuda/emulated/fiber.h"
#include "weft/core/error.h"

namespace weft::emulated {
namespace {

// ---- places, as errors name them ------------------------------------------------------------------------------------------------------

std::string text(const Index3& i) { return format("({}, {}, {})", i.x, i.y, i.z); }

std::string text(const Location& at) {
  const std::string_view file = at.file_name();
  return format("{}:{}", file.substr(file.find_last_of('/') + 1), static_cast<unsigned long>(at.line()));
}

bool same(const Location& a, const Location& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

// "void weft::cuda::{anonymous}::unary(weft::Tensor&, P ...)::<lambda()> [with T = float; P = {}]" becomes "unary [T = float; P = {}]".
std::string readable(std::string name) {
  for (const std::string_view part : {"{anonymous}::", "(anonymous namespace)::", "weft::cuda::", "weft::"}) {
    for (size_t at = name.find(part); at != std::string::npos; at = name.find(part)) name.erase(at, part.size());
  }
  if (const size_t at = name.find("[with "); at != std::string::npos) name.erase(at + 1, 5);
  const size_t types = std::min(name.find(" ["), name.size());
  int depth = 0;
  size_t begin = 0, end = 0;
  for (; end < types && (name[end] != '(' || depth > 0); ++end) {
    if (name[end] == '<') ++depth;
    if (name[end] == '>') --depth;
    if (name[end] == ' ' && depth == 0) begin = end + 1;
  }
  return name.substr(begin, end - begin) + name.substr(types);
}

// ---- threads and warps ------------------------------------------------------------------------------------------------------------------

enum class State { ready, at_barrier, in_warp, returned };

struct Thread {
  Position position;
  int number = 0;  // within the block
  State state = State::ready;
  Fiber* fiber = nullptr;  // once it runs
  const char* op = "";     // what it waits in, where, and for which lanes
  Location at;
  uint32_t mask = 0;
  std::shared_ptr<void> storage;
};

// Lanes that exchange values, by the mask that they name.
struct Exchange {
  explicit Exchange(uint32_t m) : mask(m) {}
  uint32_t mask, arrived = 0;
  unsigned round = 0;
  const Thread* first = nullptr;
  Lanes lanes[2];  // of this round and of the last, which slow lanes may not have read yet
};

struct Warp {
  uint32_t lanes = 0, returned = 0;
  std::vector<std::unique_ptr<Exchange>> exchanges;

  Exchange& exchange(uint32_t mask) {
    for (auto& e : exchanges) {
      if (e->mask == mask) return *e;
    }
    return *exchanges.emplace_back(new Exchange(mask));
  }
};

struct SharedArray {
  const void* site;
  size_t bytes;
  std::unique_ptr<std::byte[]> memory;  // a heap block each: the address sanitizer knows where it ends
  uint64_t block = 0;                   // for which it was filled
};

struct Random {  // splitmix64
  uint64_t state;
  uint64_t next() {
    uint64_t x = state += 0x9e3779b97f4a7c15U;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return x ^ (x >> 31);
  }
  size_t below(size_t n) { return static_cast<size_t>(((next() >> 32) * n) >> 32); }
};

uint64_t first_seed() {
  const char* text = std::getenv("WEFT_EMULATED_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 1;
}

// What an abandoned thread is ended with: destructors of its frames run.
struct Abandoned {};

constexpr unsigned most_threads = 1024;
constexpr size_t most_shared_bytes = size_t{227} << 10, most_static_shared_bytes = size_t{48} << 10, without_asking = size_t{32} << 10;

// ---- one block at a time ---------------------------------------------------------------------------------------------------------------

class Emulator {
 public:
  Emulator() {
    before_death([] {
      if (running != nullptr) std::fprintf(stderr, "emulated CUDA: this happened%s\n", emulator().where(*running).c_str());
    });
  }
  static Emulator& emulator() {
    static auto* it = new Emulator;
    return *it;
  }

  void run(const std::function<void()>& kernel, Size3 grid, Size3 block, size_t dynamic_shared_bytes, const Location& launched_at) {
    const std::lock_guard lock(mutex_);
    const size_t count = size_t{block.x} * block.y * block.z;
    kernel_ = &kernel;
    launched_at_ = launched_at;
    WEFT_CHECK(count >= 1 && count <= most_threads, "emulated CUDA: a block of {} threads, not 1 to {}; kernel launched by {}", count,
               most_threads, launch());
    WEFT_CHECK(dynamic_shared_bytes <= most_shared_bytes, "emulated CUDA: {} bytes of shared memory, more than {}; kernel launched by {}",
               dynamic_shared_bytes, most_shared_bytes, launch());
    prepare(count, grid, block);
    add_shared(nullptr, dynamic_shared_bytes);
    Fiber launcher;
    launcher_ = fiber_ = &launcher;

    const DeviceAccess access;
    const size_t blocks = size_t{grid.x} * grid.y * grid.z;
    const size_t start = random_.below(blocks);  // no kernel may rely on an order of blocks
    const bool backwards = random_.below(2) == 1;
    for (size_t i = 0; i < blocks; ++i) {
      const size_t b = (start + (backwards ? blocks - i : i)) % blocks;
      run_block(
          {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y), static_cast<unsigned>(b / grid.x / grid.y)});
    }
    if (const std::string found = find_overrun(); !found.empty()) {
      fail("emulated CUDA: a thread {}; kernel launched by {}", found, launch());
    }
  }

  Thread& current() {
    if (current_ == nullptr) outside_kernel();
    return *current_;
  }

  int block_barrier(bool predicate, const char* op, const Location& at) {
    const Thread& own = current();
    if (returned_ > 0) {
      const auto& other = *std::find_if(threads_.begin(), threads_.end(), [](const Thread& t) { return t.state == State::returned; });
      fault(format("{} at {} that thread {} does not reach: it has returned", op, text(at), text(other.position.thread)));
    }
    if (arrived_ == 0) {
      first_ = &own;
    } else if (!same(first_->at, at)) {
      fault(format("{} at {}, but thread {} waits in {} at {}", op, text(at), text(first_->position.thread), first_->op, text(first_->at)));
    }
    passed_ += predicate ? 1 : 0;
    if (++arrived_ < threads_.size()) {
      pause(State::at_barrier, op, at);
    } else {
      result_ = passed_;
      arrived_ = 0;
      passed_ = 0;
      for (Thread& t : threads_) make_ready(t);
      pause(State::ready, op, at);  // the last to come is not the first to go on
    }
    return result_;
  }

  const Lanes& warp_exchange(uint32_t mask, const uint32_t* words, int count, const char* op, const Location& at) {
    Thread& t = current();
    const int own = t.number % warp_size, first = t.number - own;
    Warp& warp = warps_[static_cast<size_t>(first / warp_size)];
    const auto check = [&](bool good, uint32_t lanes, const char* what) {
      if (!good) fault(format("{} at {} {} {}", op, text(at), what, std::countr_zero(lanes)));
    };
    check((mask >> own & 1U) != 0, 1U << own, "with a mask that does not name the lane itself,");
    check((mask & ~warp.lanes) == 0, mask & ~warp.lanes, "names a lane that the block does not have,");
    check((mask & warp.returned) == 0, mask & warp.returned, "names a lane that has returned,");
    Exchange& e = warp.exchange(mask);
    if (e.arrived == 0) {
      e.first = &t;
    } else if (!same(e.first->at, at)) {
      fault(format("{} at {} meets lane {}, which is in {} at {}", op, text(at), e.first->number % warp_size, e.first->op,
                   text(e.first->at)));
    }
    Lanes& lanes = e.lanes[e.round % 2];
    std::copy_n(words, count, lanes.word[own]);
    e.arrived |= 1U << own;
    t.mask = mask;
    if (e.arrived != mask) {
      pause(State::in_warp, op, at);
    } else {
      e.arrived = 0;
      ++e.round;
      for (int l = 0; l < warp_size; ++l) {
        if ((mask >> l & 1U) != 0) make_ready(threads_[static_cast<size_t>(first + l)]);
      }
      pause(State::ready, op, at);
    }
    return lanes;
  }

  void* shared_memory(const void* site, size_t bytes) {
    auto found = std::find_if(shared_.begin(), shared_.end(), [&](const SharedArray& a) { return a.site == site; });
    SharedArray& array = found != shared_.end() ? *found : add_shared(site, bytes);
    if (array.block != block_) {
      array.block = block_;
      std::memset(array.memory.get(), 0xff, array.bytes);  // NaN
    }
    return array.memory.get();
  }

  void set_seed(uint64_t seed) {
    const std::lock_guard lock(mutex_);
    random_ = {seed};
  }

 private:
  // ---- a launch
  void prepare(size_t count, Size3 grid, Size3 block) {
    threads_.assign(count, Thread());
    warps_.clear();
    warps_.resize((count + warp_size - 1) / warp_size);
    for (size_t i = 0; i < count; ++i) {
      const auto n = static_cast<unsigned>(i);
      threads_[i].position = {{n % block.x, n / block.x % block.y, n / (block.x * block.y)}, {}, block, grid};
      threads_[i].number = static_cast<int>(i);
      warps_[i / warp_size].lanes |= 1U << n % warp_size;
    }
    shared_.clear();
    ready_.reserve(count);
  }

  void run_block(const Index3& index) {
    ++block_;
    returned_ = 0;
    arrived_ = 0;
    passed_ = 0;
    ready_.clear();
    for (Warp& w : warps_) w.returned = 0;
    for (Thread& t : threads_) {
      t.position.block = index;
      t.fiber = nullptr;
      t.storage.reset();
      make_ready(t);
    }
    go_on_with(take_ready());
    if (error_.empty() && returned_ < threads_.size()) error_ = deadlock();
    if (error_.empty()) return;
    abandoned_ = true;
    for (Thread& t : threads_) {
      if (t.fiber != nullptr && t.state != State::returned) go_on_with(&t);
    }
    abandoned_ = false;
    throw Error(std::exchange(error_, ""));
  }

  SharedArray& add_shared(const void* site, size_t bytes) {
    size_t total = bytes;
    for (const SharedArray& a : shared_) total += a.bytes;
    const size_t asked_for = shared_.empty() ? bytes : shared_.front().bytes;
    if (total > most_shared_bytes) fail("{} bytes of shared memory, more than {}", total, most_shared_bytes);
    if (total - asked_for > most_static_shared_bytes) {
      fail("shared arrays of {} bytes, more than {}: WEFT_DYNAMIC_SHARED takes more", total - asked_for, most_static_shared_bytes);
    }
    const bool is_asked_for = asked_for > without_asking;  // as `launch` does it
    if (!is_asked_for && total > most_static_shared_bytes) {
      fail("{} bytes of shared memory, more than the {} that a kernel has without asking for more", total, most_static_shared_bytes);
    }
    return shared_.emplace_back(SharedArray{site, bytes, std::unique_ptr<std::byte[]>(new std::byte[bytes])});
  }

  // ---- the scheduler: whoever pauses or returns picks the next
  void make_ready(Thread& t) {
    t.state = State::ready;
    ready_.push_back(&t);
  }
  // Any of those that can run; nullptr if there is none, or none should run any more.
  Thread* take_ready() {
    if (ready_.empty() || !error_.empty() || abandoned_) return nullptr;
    std::swap(ready_[random_.below(ready_.size())], ready_.back());
    Thread* t = ready_.back();
    ready_.pop_back();
    return t;
  }

  // On the fiber of `next`: on an idle one, which runs it from the beginning, or on the launcher's where there is none.
  void go_on_with(Thread* next) {
    Fiber& from = *fiber_;
    if (next == nullptr) {
      fiber_ = launcher_;
    } else if (next->fiber != nullptr) {
      fiber_ = next->fiber;
    } else {
      if (idle_.empty()) idle_.push_back(fibers_.emplace_back(new Fiber(&Emulator::work, fibers_.size())).get());
      fiber_ = idle_.back();
      idle_.pop_back();
    }
    set_current(next);
    from.switch_to(*fiber_);
  }

  void pause(State state, const char* op, const Location& at) {
    Thread& t = *current_;
    t.state = state;
    t.op = op;
    t.at = at;
    Thread* next = take_ready();
    if (next == &t) return;
    go_on_with(next);
    if (abandoned_) throw Abandoned();
  }

  void set_current(Thread* t) {
    current_ = t;
    running = t == nullptr ? nullptr : &t->position;
  }

  // What every fiber does: runs a thread to its end, then the next on the same stack unless that one has begun elsewhere.
  static void work(Fiber::Transfer from) {
    Emulator& e = emulator();
    Fiber& own = *e.fiber_;
    own.arrived(from);
    for (;;) {
      e.current_->fiber = &own;
      e.run_thread();
      Thread* next = e.take_ready();
      if (next != nullptr && next->fiber == nullptr) {
        e.set_current(next);
        continue;
      }
      e.idle_.push_back(&own);
      e.go_on_with(next);
    }
  }

  void run_thread() {
    try {
      (*kernel_)();
    } catch (const Abandoned&) {
    } catch (const std::exception& error) {
      error_ = format("emulated CUDA: {}{}", error.what(), where(current_->position));
    }
    Thread& t = *current_;
    t.state = State::returned;
    ++returned_;
    warps_[static_cast<size_t>(t.number / warp_size)].returned |= 1U << t.number % warp_size;
  }

  // ---- errors
  std::string launch() const { return name_of(launched_at_); }
  std::string where(const Position& p) const {
    return format(", in block {}, thread {} of the kernel launched by {}", text(p.block), text(p.thread), launch());
  }

  std::string deadlock() const {
    const Thread* waiting = nullptr;
    for (const Thread& t : threads_) {
      if (t.state == State::in_warp || (waiting == nullptr && t.state == State::at_barrier)) waiting = &t;
    }
    // Whom does it wait for?
    const Thread* awaited = nullptr;
    for (const Thread& t : threads_) {
      const bool in_same_warp = t.number / warp_size == waiting->number / warp_size;
      if (waiting->state == State::in_warp && (!in_same_warp || (waiting->mask >> t.number % warp_size & 1U) == 0)) continue;
      if (t.state == waiting->state && same(t.at, waiting->at) && (t.state == State::at_barrier || t.mask == waiting->mask)) continue;
      awaited = &t;
    }
    const std::string of = awaited->state == State::returned ? "has returned" : format("waits in {} at {}", awaited->op, text(awaited->at));
    return format("emulated CUDA: {} at {} is never left: thread {} {}{}", waiting->op, text(waiting->at), text(awaited->position.thread),
                  of, where(waiting->position));
  }

  std::mutex mutex_;
  Random random_{first_seed()};

  // Of the launch.
  const std::function<void()>* kernel_ = nullptr;
  Location launched_at_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<SharedArray> shared_;

  // Of the block.
  uint64_t block_ = 0;
  std::vector<Thread*> ready_;
  size_t returned_ = 0, arrived_ = 0;  // threads; at the barrier
  const Thread* first_ = nullptr;      // at the barrier
  int passed_ = 0, result_ = 0;
  std::string error_;
  bool abandoned_ = false;

  // Of the moment.
  Thread* current_ = nullptr;
  Fiber* fiber_ = nullptr;
  Fiber* launcher_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers_;  // reused by later launches
  std::vector<Fiber*> idle_;
};

Emulator& emulator() { return Emulator::emulator(); }

}  // namespace

const Position* running = nullptr;
void outside_kernel() { fail("emulated CUDA: device code was called outside a kernel"); }

void run(const std::function<void()>& kernel, Size3 grid, Size3 block, size_t dynamic_shared_bytes, const Location& launched_at) {
  emulator().run(kernel, grid, block, dynamic_shared_bytes, launched_at);
}
std::string name_of(const Location& launched_at) { return format("{} at {}", readable(launched_at.function_name()), text(launched_at)); }
void fault(const std::string& what) { throw Error(what); }
int block_barrier(bool predicate, const char* op, const Location& at) { return emulator().block_barrier(predicate, op, at); }
const Lanes& warp_exchange(uint32_t mask, const uint32_t* words, int count, const char* op, const Location& at) {
  return emulator().warp_exchange(mask, words, count, op, at);
}
int lane() { return emulator().current().number % warp_size; }
std::shared_ptr<void>& thread_storage() { return emulator().current().storage; }
void* shared_memory(const void* site, size_t bytes) { return emulator().shared_memory(site, bytes); }
void* dynamic_shared_memory() { return emulator().shared_memory(nullptr, 0); }
void set_seed(uint64_t seed) { emulator().set_seed(seed); }

}  // namespace weft::emulated
