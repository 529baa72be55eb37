// Turns: sums from several threads in one fixed order.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace weft::cpu {

/// For every (head, block): whose turn it is to add to it. Turn t waits until turns 0 .. t - 1 have passed on.
class Turns {
 public:
  Turns(int64_t heads, int64_t blocks) : blocks_(blocks), next_(static_cast<size_t>(heads * blocks)) {}

  void wait_for(int64_t head, int64_t block, int64_t turn) {
    while (at(head, block).load(std::memory_order_acquire) != turn) std::this_thread::yield();
  }
  void pass_on(int64_t head, int64_t block, int64_t turn) { at(head, block).store(turn + 1, std::memory_order_release); }

 private:
  std::atomic<int64_t>& at(int64_t head, int64_t block) { return next_[static_cast<size_t>(head * blocks_ + block)]; }

  int64_t blocks_;
  std::vector<std::atomic<int64_t>> next_;
};

}  // namespace weft::cpu
