// How the attention kernels are spread over the CPU's threads: tasks, their workspaces, and the entry points over raw pointers.
#pragma once

#include <omp.h>

#include "weft/attention/cpu/problem.h"
#include "weft/core/device.h"
#include "weft/core/tensor.h"

namespace weft::cpu {

/// A thread's private memory, handed out in 64-byte aligned pieces. Passed by value: every task starts from the beginning.
class Workspace {
 public:
  explicit Workspace(std::byte* memory) : next_(memory) {}
  template <class T>
  T* take(int64_t elements) {
    T* piece = reinterpret_cast<T*>(next_);
    next_ += round_up(elements * int64_t{sizeof(T)}, 64);
    return piece;
  }

 private:
  std::byte* next_;
};

/// One workspace for each thread of a parallel region.
class Workspaces {
 public:
  Workspaces(int threads, int64_t bytes)
      : stride_(round_up(bytes, 64) + alignment_slack),
        memory_(empty({threads * stride_ / 8}, {.dtype = DType::float64, .device = Device::cpu()})) {}
  Workspace mine() const { return Workspace(static_cast<std::byte*>(memory_.raw()) + omp_get_thread_num() * stride_); }

 private:
  static constexpr int64_t alignment_slack = 4096;  // every piece begins on a cache line
  int64_t stride_;
  Tensor memory_;
};

/// Multiply-adds below which a kernel stays on the calling thread.
inline constexpr double grain = 1 << 18;

/// Pairs of a query and a key that it sees, over all batches and heads.
template <class T>
double visible_pairs(const Problem<T>& p) {
  const int64_t step = std::max<int64_t>(1, p.N / 64);
  double pairs = 0;
  for (int64_t b = 0; b < p.B; ++b)
    for (int64_t i = 0; i < p.N; i += step)
      pairs += static_cast<double>(std::max<int64_t>(0, p.end_key(b, i) - p.first_key(i)) * std::min(step, p.N - i));
  return pairs * static_cast<double>(p.H);
}

/// Query rows [row0, row0 + count) of one head.
struct RowTask {
  int64_t b, h, row0, count;
};

/// Blocks of query rows: independent tasks, whose size changes no result.
struct RowTasks {
  int64_t B, H, N, rows, threads;
};

template <class T>
RowTasks split_rows(const Problem<T>& p) {
  const bool small = visible_pairs(p) * static_cast<double>(p.D + p.Dv) < grain;
  const int64_t threads = small ? 1 : num_threads();
  // Rows share the packing of the keys, so more are better, until the task leaves the second-level cache or threads run out of tasks.
  constexpr int64_t cache_bytes = 384 << 10;
  const int64_t fitting = cache_bytes / (int64_t{sizeof(T)} * std::max<int64_t>(1, p.D + p.Dv));
  const int64_t balanced = threads == 1 ? p.N : ceil_div(p.B * p.H * p.N, 4 * threads);
  const int64_t rows = std::clamp(std::min(fitting, balanced), 8 * strip_rows, std::max(8 * strip_rows, p.N));
  return {p.B, p.H, p.N, round_up(rows, strip_rows), threads};
}

/// Calls f(task, workspace) for every task, the last rows of all heads first: with a causal mask they have most work.
template <class F>
void run_tasks(const RowTasks& tasks, int64_t workspace_bytes, F&& f) {
  const int64_t heads = tasks.B * tasks.H, blocks = ceil_div(tasks.N, tasks.rows), count = heads * blocks;
  if (count == 0) return;
  const int threads = static_cast<int>(std::min(tasks.threads, count));
  const Workspaces workspaces(threads, workspace_bytes);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
  for (int64_t t = 0; t < count; ++t) {
    const int64_t head = t % heads, row0 = (blocks - 1 - t / heads) * tasks.rows;
    f(RowTask{head / tasks.H, head % tasks.H, row0, std::min(tasks.rows, tasks.N - row0)}, workspaces.mine());
  }
}

}  // namespace weft::cpu
