// Kernels that only move elements: they work on any dtype by its size. Two patterns carry them all: runs of memory at regular distances
// (slice, concat, pad, flip, roll; runs.h), and a walk through strided axes (permute, repeat, broadcast_to).
#include <algorithm>
#include <array>
#include <cstring>

#include "weft/core/cpu/parallel.h"
#include "weft/core/cpu/runs.h"
#include "weft/core/kernels.h"
#include "weft/core/strided_copy.h"

namespace weft::cpu {
namespace {

std::byte* bytes_of(Tensor& x) { return static_cast<std::byte*>(x.raw()); }
const std::byte* bytes_of(const Tensor& x) { return static_cast<const std::byte*>(x.raw()); }

// x seen from one axis: `outer` blocks of `size` rows of `row` bytes.
struct RowBytes {
  int64_t outer = 1, size = 1, row = 1;
  RowBytes(const Tensor& x, int axis) : size(x.shape()[axis]), row(size_of(x.dtype())) {
    for (int i = 0; i < axis; ++i) outer *= x.shape()[i];
    for (int i = axis + 1; i < x.rank(); ++i) row *= x.shape()[i];
  }
  int64_t block() const { return size * row; }
};

// Rows of x into rows of y, for every block: count rows from x row `from`, `step` apart, to y row `to` on.
void copy_rows(Tensor& y, int64_t to, const Tensor& x, int64_t from, int64_t step, int64_t count, int axis) {
  if (count <= 0) return;
  const RowBytes target(y, axis), source(x, axis);
  copy_runs(bytes_of(y) + to * target.row, bytes_of(x) + from * source.row,
            {.blocks = source.outer,
             .to_block = target.block(),
             .from_block = source.block(),
             .rows = count,
             .to_row = target.row,
             .from_row = step * source.row,
             .bytes = target.row});
}

// y rows [begin, end) of every block = value.
void fill_rows(Tensor& y, int64_t begin, int64_t end, int axis, double value) {
  if (begin >= end) return;
  const RowBytes view(y, axis);
  if (begin == 0 && end == view.size) return fill(y, value);
  Tensor element = empty({1}, {.dtype = y.dtype(), .device = Device::cpu()});
  fill(element, value);
  fill_runs(bytes_of(y) + begin * view.row, view.block(), view.outer, (end - begin) * view.row, bytes_of(element), size_of(y.dtype()));
}

// ---- strided axes --------------------------------------------------------------------------------------------------------------------

// Walks through the axes in y's order, keeping the offset in x.
class Walk {
 public:
  Walk(const StridedCopy& axes, int64_t first) : axes_(axes) {
    for (int axis = axes.rank - 1; axis >= 0; --axis) {
      const auto a = static_cast<size_t>(axis);
      index_[a] = first % axes.size[a];
      offset_ += index_[a] * axes.stride[a];
      first /= axes.size[a];
    }
  }
  int64_t offset() const { return offset_; }
  void next() {
    for (int axis = axes_.rank - 1; axis >= 0; --axis) {
      const auto a = static_cast<size_t>(axis);
      offset_ += axes_.stride[a];
      if (++index_[a] < axes_.size[a]) return;
      offset_ -= axes_.size[a] * axes_.stride[a];
      index_[a] = 0;
    }
  }

 private:
  const StridedCopy& axes_;
  std::array<int64_t, StridedCopy::max_rank> index_{};
  int64_t offset_ = 0;
};

// The innermost axis of y is contiguous in x, or one element of x again and again.
template <class T>
void copy_lines(T* y, const T* x, const StridedCopy& copy) {
  const auto last = static_cast<size_t>(copy.rank - 1);
  const int64_t width = copy.size[last], step = copy.stride[last];
  const StridedCopy outer = copy.without(copy.rank - 1);
  if (outer.rank == 0 && step == 1) {
    return copy_runs(reinterpret_cast<std::byte*>(y), reinterpret_cast<const std::byte*>(x),
                     {.bytes = width * static_cast<int64_t>(sizeof(T))});
  }
  parallel_for(outer.count(), grain_bytes / (width * static_cast<int64_t>(sizeof(T))), [&](int64_t begin, int64_t end) {
    Walk walk(outer, begin);
    for (int64_t line = begin; line < end; ++line, walk.next()) {
      if (step == 1) {
        std::copy_n(x + walk.offset(), width, y + line * width);
      } else {
        std::fill_n(y + line * width, width, x[walk.offset()]);
      }
    }
  });
}

// y [rows, columns] with rows y_stride apart = the transpose of x [columns, rows] with columns x_stride apart, both at most `tile`.
template <class T, int64_t tile>
void transpose_tile(T* y, int64_t y_stride, const T* x, int64_t x_stride, int64_t rows, int64_t columns) {
  T buffer[tile][tile];  // lines of x are read whole and lines of y written whole, however their strides collide in the cache
  if (rows == tile && columns == tile) {
    for (int64_t j = 0; j < tile; ++j) std::copy_n(x + j * x_stride, tile, buffer[j]);
    for (int64_t i = 0; i < tile; ++i) {
      for (int64_t j = 0; j < tile; ++j) y[i * y_stride + j] = buffer[j][i];
    }
    return;
  }
  for (int64_t j = 0; j < columns; ++j) std::copy_n(x + j * x_stride, rows, buffer[j]);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) y[i * y_stride + j] = buffer[j][i];
  }
}

// The innermost axis of y strides through x, and x's innermost axis, `fast`, is another one of y: planes of these two are transposed.
template <class T>
void copy_planes(T* y, const T* x, const StridedCopy& copy, int fast) {
  constexpr int64_t tile = 64 / sizeof(T);
  constexpr int64_t band = 512;  // columns of one task
  const auto last = static_cast<size_t>(copy.rank - 1), row_axis = static_cast<size_t>(fast);
  const int64_t rows = copy.size[row_axis], columns = copy.size[last], x_stride = copy.stride[last];
  const StridedCopy in_y = copy.in_y();
  const int64_t y_stride = in_y.stride[row_axis];
  const StridedCopy from = copy.without(copy.rank - 1).without(fast), to = in_y.without(copy.rank - 1).without(fast);
  const int64_t row_tiles = ceil_div(rows, tile), bands = ceil_div(columns, band);
  const int64_t task_bytes = tile * std::min(band, columns) * static_cast<int64_t>(sizeof(T));
  parallel_for(from.count() * row_tiles * bands, std::max<int64_t>(1, grain_bytes / task_bytes), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t plane = task / (row_tiles * bands), i = task / bands % row_tiles * tile, first = task % bands * band;
      const T* source = x + Walk(from, plane).offset() + i;
      T* target = y + Walk(to, plane).offset() + i * y_stride;
      for (int64_t j = first; j < std::min(first + band, columns); j += tile) {
        transpose_tile<T, tile>(target + j, y_stride, source + j * x_stride, x_stride, std::min(tile, rows - i),
                                std::min(tile, columns - j));
      }
    }
  });
}

void copy_strided(Tensor& y, const Tensor& x, StridedCopy copy) {
  if (y.numel() == 0) return;
  if (copy.rank == 0) {  // one element
    copy.rank = 1;
    copy.size[0] = copy.stride[0] = 1;
  }
  dispatch_size(y.dtype(), [&]<class T>() {
    T* to = static_cast<T*>(y.raw());
    const T* from = static_cast<const T*>(x.raw());
    if (copy.stride[static_cast<size_t>(copy.rank - 1)] <= 1) return copy_lines(to, from, copy);
    const int fast = static_cast<int>(std::find(copy.stride.begin(), copy.stride.begin() + copy.rank, 1) - copy.stride.begin());
    copy_planes(to, from, copy, fast);
  });
}

}  // namespace

void permute(Tensor& y, const Tensor& x, std::span<const int> axes) { copy_strided(y, x, permuted_copy(y.shape(), x.shape(), axes)); }

void broadcast_to(Tensor& y, const Tensor& x) { copy_strided(y, x, broadcast_copy(y.shape(), x.shape())); }

void repeat(Tensor& y, const Tensor& x) {
  if (y.numel() > 0) copy_strided(y, x, repeated_copy(y.shape(), x.shape()));
}

// ---- rows of one axis ----------------------------------------------------------------------------------------------------------------

void slice(Tensor& y, const Tensor& x, int axis, int64_t begin, int64_t step) { copy_rows(y, 0, x, begin, step, y.shape()[axis], axis); }

void slice_backward(Tensor& y, const Tensor& x, int axis, int64_t begin, int64_t step) {
  const RowBytes target(y, axis), source(x, axis);
  if (step == 1) {
    fill_rows(y, 0, begin, axis, 0);
    fill_rows(y, begin + source.size, target.size, axis, 0);
  } else {
    fill(y, 0);
  }
  copy_runs(bytes_of(y) + begin * target.row, bytes_of(x),
            {.blocks = source.outer,
             .to_block = target.block(),
             .from_block = source.block(),
             .rows = source.size,
             .to_row = step * target.row,
             .from_row = source.row,
             .bytes = source.row});
}

void concat(Tensor& y, std::span<const Tensor> xs, int axis) {
  int64_t begin = 0;
  for (const Tensor& x : xs) {
    copy_rows(y, begin, x, 0, 1, x.shape()[axis], axis);
    begin += x.shape()[axis];
  }
}

void pad(Tensor& y, const Tensor& x, int axis, int64_t before, double value) {
  const int64_t size = y.shape()[axis];
  const int64_t begin = std::clamp<int64_t>(before, 0, size), end = std::clamp(before + x.shape()[axis], begin, size);
  fill_rows(y, 0, begin, axis, value);
  copy_rows(y, begin, x, begin - before, 1, end - begin, axis);
  fill_rows(y, end, size, axis, value);
}

void flip(Tensor& y, const Tensor& x, int axis) { copy_rows(y, 0, x, x.shape()[axis] - 1, -1, x.shape()[axis], axis); }

void roll(Tensor& y, const Tensor& x, int axis, int64_t shift) {
  const int64_t size = x.shape()[axis];
  if (size == 0) return;
  const int64_t split = ((shift % size) + size) % size;  // y[split + i] = x[i]
  copy_rows(y, split, x, 0, 1, size - split, axis);
  copy_rows(y, 0, x, size - split, 1, split, axis);
}

}  // namespace weft::cpu
