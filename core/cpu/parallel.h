// Loops over the CPU backend's one OpenMP pool.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <exception>

#include "weft/core/device.h"
#include "weft/core/rounding.h"

namespace weft::cpu {

/// Elements that are worth a thread, of a loop of a few operations each, and of one with an exponential or several passes.
inline constexpr int64_t light_grain = int64_t{1} << 14, heavy_grain = int64_t{1} << 13;

/// Iterations that are worth a thread, of so many elements each.
inline int64_t grain_for(int64_t elements, int64_t grain = light_grain) {
  return std::max<int64_t>(1, grain / std::max<int64_t>(1, elements));
}

/// Before BLAS is called, which asks OpenMP how many threads to use: OpenMP keeps that number for each thread of the program by itself.
inline void apply_num_threads() {
  if (omp_get_max_threads() != num_threads()) omp_set_num_threads(num_threads());
}

/// Calls f(begin, end) on contiguous pieces of [0, n), one per thread. Pieces hold at least about `grain` iterations: when n <= grain,
/// or inside another parallel loop, this is f(0, n) on the calling thread. The split depends only on n, grain and the number of
/// threads, so a sum kept per piece repeats to the bit. The exception of the lowest piece that threw is rethrown here.
template <class F>
void parallel_for(int64_t n, int64_t grain, F&& f) {
  if (n <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  const int64_t wanted = n <= grain ? 1 : std::min<int64_t>(num_threads(), ceil_div(n, grain));
  if (wanted <= 1 || omp_in_parallel()) {
    f(int64_t{0}, n);
    return;
  }
  std::exception_ptr error;
  int64_t error_piece = wanted;
#pragma omp parallel num_threads(static_cast <int>(wanted))
  {
    // A smaller team than asked for (a thread limit) still runs every one of the wanted pieces.
    for (int64_t piece = omp_get_thread_num(); piece < wanted; piece += omp_get_num_threads()) {
      const int64_t size = n / wanted, longer = n % wanted;  // the first `longer` pieces take one more
      const int64_t begin = piece * size + std::min(piece, longer);
      const int64_t end = begin + size + (piece < longer ? 1 : 0);
      try {
        f(begin, end);
      } catch (...) {
#pragma omp critical(weft_parallel_for_error)
        if (piece < error_piece) {
          error_piece = piece;
          error = std::current_exception();
        }
      }
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace weft::cpu
