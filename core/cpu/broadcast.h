// Reading broadcast operands: a kernel's inner loop sees contiguous arrays only, whatever the shapes are.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

#include "weft/core/tensor.h"

namespace weft::cpu {

/// Broadcast loops advance by at most this many elements, so that a repeated operand is written out in the first-level cache.
inline constexpr int64_t broadcast_block = 1024;

/// A tensor seen as if it were expanded to the shape `to`. `read` gives the values that belong to elements [begin, begin + n) of that
/// shape side by side: where they lie in the tensor if they are contiguous there, else in a buffer.
template <class T>
class BroadcastReader {
 public:
  BroadcastReader(const Tensor& x, const Shape& to) : data_(static_cast<const T*>(x.raw())) {
    collapse(x.shape(), to);
    if (rank_ == 0) return;
    if (rank_ == 1 && axes_[0].stride == 0) {
      std::fill_n(buffer_.data(), std::min(axes_[0].size, broadcast_block), data_[0]);
    } else if (is_periodic() && run() < broadcast_block) {  // written out once, read at any phase
      const int64_t filled = run() + std::min(axes_[0].size * run(), broadcast_block);
      for (int64_t i = 0; i < filled; i += run()) std::copy_n(data_, std::min(run(), filled - i), buffer_.data() + i);
    }
  }

  /// Elements of the innermost axis that is uniform for this operand: blocks within one run need no copying, or only a fill.
  int64_t run() const { return rank_ == 0 ? std::numeric_limits<int64_t>::max() : axes_[static_cast<size_t>(rank_ - 1)].size; }

  /// n <= broadcast_block.
  const T* read(int64_t begin, int64_t n) {
    if (rank_ == 0) return data_;
    if (rank_ == 1) return axes_[0].stride == 0 ? buffer_.data() : data_ + begin;
    if (is_periodic() && run() < broadcast_block) return buffer_.data() + begin % run();
    const int64_t phase = begin % run();
    const Axis inner = axes_[static_cast<size_t>(rank_ - 1)];
    if (inner.stride == 1 && phase + n <= run()) return data_ + offset_of_run(begin / run()) + phase;
    T* out = buffer_.data();
    int64_t row = begin / run();
    for (int64_t done = 0, start = phase; done < n; ++row, start = 0) {
      const int64_t count = std::min(run() - start, n - done);
      const T* source = data_ + offset_of_run(row);
      if (inner.stride == 1) {
        std::copy_n(source + start, count, out + done);
      } else {
        std::fill_n(out + done, count, *source);
      }
      done += count;
    }
    return out;
  }

 private:
  struct Axis {
    int64_t size, stride;
  };

  // The axes of `to` with this operand's strides (0 where it is repeated), neighbours merged as far as they can be.
  void collapse(const Shape& from, const Shape& to) {
    int64_t stride = 1;
    for (int i = 0; i < to.rank(); ++i) {  // from the innermost axis outwards
      const int64_t size = to.back(i);
      const bool repeated = i >= from.rank() || from.back(i) == 1;
      if (size == 1) continue;
      const Axis axis{size, repeated ? 0 : stride};
      if (!repeated) stride *= size;
      Axis* inner = rank_ > 0 ? &axes_[static_cast<size_t>(rank_ - 1)] : nullptr;
      if (inner != nullptr && (axis.stride == 0) == (inner->stride == 0)) {
        inner->size *= size;
      } else {
        axes_[static_cast<size_t>(rank_++)] = axis;
      }
    }
    std::reverse(axes_.begin(), axes_.begin() + rank_);
  }

  bool is_periodic() const { return rank_ == 2 && axes_[0].stride == 0; }

  int64_t offset_of_run(int64_t row) const {
    int64_t offset = 0;
    for (int i = rank_ - 2; i > 0; --i) {
      const Axis& axis = axes_[static_cast<size_t>(i)];
      offset += row % axis.size * axis.stride;
      row /= axis.size;
    }
    return offset + row * axes_[0].stride;
  }

  const T* data_;
  std::array<Axis, Shape::max_rank> axes_;
  int rank_ = 0;
  alignas(64) std::array<T, 2 * broadcast_block> buffer_;  // not initialized: only what is read back is written
};

/// Calls f(begin, n) on consecutive blocks of [begin, end), at most broadcast_block long and, where all runs are long, within one run.
template <class F, class... Readers>
void for_each_block(int64_t begin, int64_t end, F&& f, const Readers&... readers) {
  constexpr int64_t long_run = 256;
  const int64_t run = std::min({readers.run()...});
  while (begin < end) {
    const int64_t to_end = std::min(end - begin, broadcast_block);
    const int64_t n = run >= long_run ? std::min(to_end, run - begin % run) : to_end;
    f(begin, n);
    begin += n;
  }
}

}  // namespace weft::cpu
