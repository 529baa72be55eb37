// Kernels that only move elements: they work on any dtype by its size, and on whole runs of memory where they can.
#include <algorithm>
#include <array>
#include <cstring>

#include "weft/core/cpu/parallel.h"
#include "weft/core/kernels.h"

namespace weft::cpu {
namespace {

// Bytes that are worth another thread.
constexpr int64_t grain_bytes = int64_t{1} << 16;

// x seen from one axis: `outer` blocks of `size` rows of `inner` bytes.
struct AxisView {
  int64_t outer = 1, size = 1, inner = 1;
  AxisView(const Tensor& x, int axis) : size(x.shape()[axis]), inner(size_of(x.dtype())) {
    for (int i = 0; i < axis; ++i) outer *= x.shape()[i];
    for (int i = axis + 1; i < x.rank(); ++i) inner *= x.shape()[i];
  }
};

std::byte* bytes_of(Tensor& x) { return static_cast<std::byte*>(x.raw()); }
const std::byte* bytes_of(const Tensor& x) { return static_cast<const std::byte*>(x.raw()); }

void copy_run(std::byte* to, const std::byte* from, int64_t bytes) { std::memcpy(to, from, static_cast<size_t>(bytes)); }

// Calls f(row) for every row of `bytes` bytes, over the threads.
template <class F>
void for_rows(int64_t rows, int64_t bytes, F&& f) {
  parallel_for(rows, std::max<int64_t>(1, grain_bytes / std::max<int64_t>(bytes, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) f(row);
  });
}

// Calls f.operator()<T>() with an unsigned type of the element's size.
template <class F>
void dispatch_size(DType dtype, F&& f) {
  switch (size_of(dtype)) {
    case 1:
      return f.template operator()<uint8_t>();
    case 2:
      return f.template operator()<uint16_t>();
    case 4:
      return f.template operator()<uint32_t>();
    default:
      return f.template operator()<uint64_t>();
  }
}

// The axes of a copy y <- x in y's order, with x's strides; neighbours that are contiguous in both are merged, size 1 is dropped.
struct StridedCopy {
  int rank = 0;
  std::array<int64_t, 2 * Shape::max_rank> size{}, stride{};  // repeat has two for each axis

  void add(int64_t axis_size, int64_t axis_stride) {
    if (axis_size == 1) return;
    if (rank > 0 && stride[static_cast<size_t>(rank - 1)] == axis_stride * axis_size) {
      size[static_cast<size_t>(rank - 1)] *= axis_size;
      stride[static_cast<size_t>(rank - 1)] = axis_stride;
      return;
    }
    size[static_cast<size_t>(rank)] = axis_size;
    stride[static_cast<size_t>(rank++)] = axis_stride;
  }
};

// Where x is read for row `row` of y, rows numbered over the leading `axes` axes.
int64_t source_offset(const StridedCopy& copy, int axes, int64_t row) {
  int64_t offset = 0;
  for (int axis = axes - 1; axis >= 0; --axis) {
    const int64_t size = copy.size[static_cast<size_t>(axis)];
    offset += row % size * copy.stride[static_cast<size_t>(axis)];
    row /= size;
  }
  return offset;
}

// Both sides of a transpose in tiles that stay in the first-level cache.
template <class T>
void transpose_tiled(T* y, const T* x, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride) {
  constexpr int64_t tile = 16;
  for (int64_t i0 = 0; i0 < rows; i0 += tile) {
    const int64_t i1 = std::min(i0 + tile, rows);
    for (int64_t j0 = 0; j0 < columns; j0 += tile) {
      const int64_t j1 = std::min(j0 + tile, columns);
      for (int64_t i = i0; i < i1; ++i) {
        for (int64_t j = j0; j < j1; ++j) y[i * columns + j] = x[i * row_stride + j * column_stride];
      }
    }
  }
}

template <class T>
void run_strided(T* y, const T* x, const StridedCopy& copy) {
  if (copy.rank == 0) {
    *y = *x;
    return;
  }
  const auto last = static_cast<size_t>(copy.rank - 1);
  const int64_t width = copy.size[last], step = copy.stride[last];
  int64_t rows = 1;
  for (size_t axis = 0; axis < last; ++axis) rows *= copy.size[axis];
  if (step <= 1 || copy.rank == 1) {  // a run of x, or one element of it again and again
    for_rows(rows, width * static_cast<int64_t>(sizeof(T)), [&](int64_t row) {
      const T* from = x + source_offset(copy, copy.rank - 1, row);
      T* to = y + row * width;
      if (step == 1) {
        std::memcpy(to, from, static_cast<size_t>(width) * sizeof(T));
      } else {
        for (int64_t i = 0; i < width; ++i) to[i] = from[i * step];
      }
    });
    return;
  }
  // The innermost axes are transposed: planes of the last two, in bands of rows.
  const int64_t height = copy.size[last - 1], height_stride = copy.stride[last - 1];
  constexpr int64_t band = 16;
  const int64_t bands = (height + band - 1) / band;
  for_rows(rows / height * bands, band * width * static_cast<int64_t>(sizeof(T)), [&](int64_t task) {
    const int64_t plane = task / bands, top = task % bands * band;
    const T* from = x + source_offset(copy, copy.rank - 2, plane) + top * height_stride;
    transpose_tiled(y + (plane * height + top) * width, from, std::min(band, height - top), width, height_stride, step);
  });
}

void copy_strided(Tensor& y, const Tensor& x, const StridedCopy& copy) {
  if (y.numel() == 0) return;
  dispatch_size(y.dtype(), [&]<class T>() { run_strided(static_cast<T*>(y.raw()), static_cast<const T*>(x.raw()), copy); });
}

std::array<int64_t, Shape::max_rank> strides_of(const Shape& shape) {
  std::array<int64_t, Shape::max_rank> strides{};
  int64_t stride = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    strides[static_cast<size_t>(axis)] = stride;
    stride *= shape[axis];
  }
  return strides;
}

}  // namespace

void permute(Tensor& y, const Tensor& x, std::span<const int> axes) {
  const auto strides = strides_of(x.shape());
  StridedCopy copy;
  for (int axis = 0; axis < y.rank(); ++axis) copy.add(y.shape()[axis], strides[static_cast<size_t>(axes[static_cast<size_t>(axis)])]);
  copy_strided(y, x, copy);
}

void broadcast_to(Tensor& y, const Tensor& x) {
  const auto strides = strides_of(x.shape());
  const int added = y.rank() - x.rank();
  StridedCopy copy;
  for (int axis = 0; axis < y.rank(); ++axis) {
    const bool stretched = axis < added || (x.shape()[axis - added] == 1 && y.shape()[axis] != 1);
    copy.add(y.shape()[axis], stretched ? 0 : strides[static_cast<size_t>(axis - added)]);
  }
  copy_strided(y, x, copy);
}

void slice(Tensor& y, const Tensor& x, int axis, int64_t begin, int64_t step) {
  if (y.numel() == 0) return;
  const AxisView from(x, axis), to(y, axis);
  if (step == 1) {
    const int64_t run = to.size * to.inner;
    for_rows(to.outer, run, [&](int64_t o) { copy_run(bytes_of(y) + o * run, bytes_of(x) + (o * from.size + begin) * from.inner, run); });
    return;
  }
  for_rows(to.outer * to.size, to.inner, [&](int64_t row) {
    const int64_t o = row / to.size, i = row % to.size;
    copy_run(bytes_of(y) + row * to.inner, bytes_of(x) + (o * from.size + begin + i * step) * from.inner, to.inner);
  });
}

void slice_backward(Tensor& y, const Tensor& x, int axis, int64_t begin, int64_t step) {
  fill(y, 0);
  if (x.numel() == 0) return;
  const AxisView from(x, axis), to(y, axis);
  for_rows(from.outer * from.size, from.inner, [&](int64_t row) {
    const int64_t o = row / from.size, i = row % from.size;
    copy_run(bytes_of(y) + (o * to.size + begin + i * step) * to.inner, bytes_of(x) + row * from.inner, from.inner);
  });
}

void concat(Tensor& y, std::span<const Tensor> xs, int axis) {
  const AxisView to(y, axis);
  int64_t begin = 0;
  for (const Tensor& x : xs) {
    const AxisView from(x, axis);
    const int64_t run = from.size * from.inner;
    if (x.numel() > 0) {
      for_rows(from.outer, run, [&](int64_t o) { copy_run(bytes_of(y) + (o * to.size + begin) * to.inner, bytes_of(x) + o * run, run); });
    }
    begin += from.size;
  }
}

void pad(Tensor& y, const Tensor& x, int axis, int64_t before, double value) {
  fill(y, value);
  if (x.numel() == 0 || y.numel() == 0) return;
  const AxisView from(x, axis), to(y, axis);
  const int64_t first = std::max<int64_t>(0, -before), last = std::min(from.size, to.size - before);
  if (last <= first) return;
  const int64_t run = (last - first) * from.inner;
  for_rows(from.outer, run, [&](int64_t o) {
    copy_run(bytes_of(y) + (o * to.size + before + first) * to.inner, bytes_of(x) + (o * from.size + first) * from.inner, run);
  });
}

void flip(Tensor& y, const Tensor& x, int axis) {
  if (x.numel() == 0) return;
  const AxisView view(x, axis);
  for_rows(view.outer * view.size, view.inner, [&](int64_t row) {
    const int64_t o = row / view.size, i = row % view.size;
    copy_run(bytes_of(y) + row * view.inner, bytes_of(x) + (o * view.size + view.size - 1 - i) * view.inner, view.inner);
  });
}

void roll(Tensor& y, const Tensor& x, int axis, int64_t shift) {
  if (x.numel() == 0) return;
  const AxisView view(x, axis);
  const int64_t split = ((shift % view.size) + view.size) % view.size;  // y[split + i] = x[i]
  for_rows(view.outer, view.size * view.inner, [&](int64_t o) {
    std::byte* to = bytes_of(y) + o * view.size * view.inner;
    const std::byte* from = bytes_of(x) + o * view.size * view.inner;
    copy_run(to + split * view.inner, from, (view.size - split) * view.inner);
    copy_run(to, from + (view.size - split) * view.inner, split * view.inner);
  });
}

void repeat(Tensor& y, const Tensor& x) {
  if (y.numel() == 0) return;
  // y axis i is the pair (count, x axis i).
  const auto strides = strides_of(x.shape());
  StridedCopy copy;
  for (int axis = 0; axis < y.rank(); ++axis) {
    copy.add(y.shape()[axis] / x.shape()[axis], 0);
    copy.add(x.shape()[axis], strides[static_cast<size_t>(axis)]);
  }
  copy_strided(y, x, copy);
}

}  // namespace weft::cpu
