// Copies and fills of runs of memory at regular distances, over the threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "weft/core/cpu/parallel.h"

namespace weft::cpu {

/// Bytes that are worth another thread.
inline constexpr int64_t grain_bytes = int64_t{1} << 16;

/// `blocks` blocks of `rows` runs of `bytes` bytes; distances are in bytes and may be negative.
struct Runs {
  int64_t blocks = 1, to_block = 0, from_block = 0;
  int64_t rows = 1, to_row = 0, from_row = 0;
  int64_t bytes = 0;

  /// The same copy in as few and as long runs as possible, with rows varied before blocks.
  Runs merged() const {
    Runs r = *this;
    if (r.rows == 1 || (r.to_row == r.bytes && r.from_row == r.bytes)) {
      r.bytes *= r.rows;
      r.rows = 1;
    }
    if (r.rows == 1) {
      r.rows = r.blocks;
      r.to_row = r.to_block;
      r.from_row = r.from_block;
      r.blocks = 1;
      if (r.to_row == r.bytes && r.from_row == r.bytes) {
        r.bytes *= r.rows;
        r.rows = 1;
      }
    }
    return r;
  }
};

/// Calls f(bytes) with a constant where runs are single elements: memcpy is a move then.
template <class F>
void with_constant_size(int64_t bytes, F&& f) {
  switch (bytes) {
    case 1:
      return f(std::integral_constant<int64_t, 1>());
    case 2:
      return f(std::integral_constant<int64_t, 2>());
    case 4:
      return f(std::integral_constant<int64_t, 4>());
    case 8:
      return f(std::integral_constant<int64_t, 8>());
    default:
      return f(bytes);
  }
}

namespace detail {

template <class Bytes>
void copy_each(std::byte* to, const std::byte* from, const Runs& r, Bytes bytes) {
  parallel_for(r.blocks * r.rows, grain_bytes / bytes, [&](int64_t begin, int64_t end) {
    for (int64_t run = begin; run < end;) {
      const int64_t block = run / r.rows, first = run % r.rows, last = std::min(r.rows, first + end - run);
      std::byte* target = to + block * r.to_block;
      const std::byte* source = from + block * r.from_block;
      for (int64_t row = first; row < last; ++row)
        std::memcpy(target + row * r.to_row, source + row * r.from_row, static_cast<size_t>(bytes));
      run += last - first;
    }
  });
}

}  // namespace detail

inline void copy_runs(std::byte* to, const std::byte* from, const Runs& runs) {
  const Runs r = runs.merged();
  if (r.blocks <= 0 || r.rows <= 0 || r.bytes <= 0) return;
  if (r.blocks * r.rows >= 64 || r.bytes <= grain_bytes) {
    return with_constant_size(r.bytes, [&](auto bytes) { detail::copy_each(to, from, r, bytes); });
  }
  for (int64_t run = 0; run < r.blocks * r.rows; ++run) {  // few and long: each is shared out
    std::byte* target = to + run / r.rows * r.to_block + run % r.rows * r.to_row;
    const std::byte* source = from + run / r.rows * r.from_block + run % r.rows * r.from_row;
    parallel_for(r.bytes, grain_bytes,
                 [&](int64_t begin, int64_t end) { std::memcpy(target + begin, source + begin, static_cast<size_t>(end - begin)); });
  }
}

/// `count` runs of `bytes` bytes, `distance` apart, are filled with copies of one element.
inline void fill_runs(std::byte* to, int64_t distance, int64_t count, int64_t bytes, const std::byte* element, int64_t element_size) {
  if (bytes <= 0) return;
  parallel_for(count, grain_bytes / bytes, [&](int64_t begin, int64_t end) {
    for (int64_t run = begin; run < end; ++run) {
      std::byte* target = to + run * distance;
      std::memcpy(target, element, static_cast<size_t>(element_size));
      for (int64_t filled = element_size; filled < bytes; filled *= 2) {  // the part that is filled doubles
        std::memcpy(target + filled, target, static_cast<size_t>(std::min(filled, bytes - filled)));
      }
    }
  });
}

}  // namespace weft::cpu
