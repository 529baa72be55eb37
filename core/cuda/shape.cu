// Kernels that only move elements: they work on any dtype by its size, in units of up to 16 bytes. Each reads what it needs of x once and
// writes y once. Three patterns carry them all: rows of one axis (slice, pad, flip, roll, concat), a walk through strided axes (permute,
// repeat, broadcast_to), and tiles that are transposed in shared memory (permute, where the innermost axis moves).
#include <algorithm>

#include "weft/core/cuda/moves.cuh"

namespace weft::cuda {
namespace {

// ---- rows of one axis -------------------------------------------------------------------------------------------------------------------

// y row i along the axis is x row s / every, where s = begin + i * step; it is filled if there is no such row.
struct RowMap {
  int64_t begin = 0, step = 1, every = 1;
  bool wraps = false;  // negative s count from the end
};

template <class U>
struct RowsOfAxis {
  const U* x;
  U fill;
  Divisor y_block, row, every;  // a block, a row: in units
  int64_t begin, step, length;  // length: rows of x
  bool wraps;

  __device__ U operator()(int64_t e) const {
    const int64_t block = y_block.divide(e), within = e - block * y_block.value();
    const int64_t i = row.value() == 1 ? within : row.divide(within), column = within - i * row.value();
    int64_t s = begin + i * step;
    if (wraps && s < 0) s += length;
    if (s < 0) return fill;
    if (every.value() != 1) {
      const int64_t source = every.divide(s);
      if (source * every.value() != s) return fill;
      s = source;
    }
    return s < length ? load_unit(x + (block * length + s) * row.value() + column) : fill;
  }
};

void move_rows(Tensor& y, const Tensor& x, int axis, RowMap map, double fill = 0) {
  if (y.numel() == 0) return;
  const AxisView to = view_along(y.shape(), axis);
  const int64_t row_bytes = to.inner * size_of(y.dtype()), y_bytes = to.length * row_bytes, x_bytes = x.shape()[axis] * row_bytes;
  // Rows that stay neighbours move as one run, of which each unit is a row.
  const bool neighbours = map.step == 1 && map.every == 1;
  const int64_t unit = neighbours ? widest_unit(address(y), address(x), map.begin * row_bytes, y_bytes, x_bytes)
                                  : widest_unit(address(y), address(x), row_bytes);
  const int64_t row = neighbours ? unit : row_bytes;
  dispatch_unit(unit, [&]<class U>() {
    produce<U>(y, to.outer * y_bytes / unit,
               RowsOfAxis<U>{.x = static_cast<const U*>(x.raw()),
                             .fill = unit_of<U>(fill, y.dtype()),
                             .y_block = Divisor(y_bytes / unit),
                             .row = Divisor(row / unit),
                             .every = Divisor(map.every),
                             .begin = map.begin * row_bytes / row,
                             .step = map.step,
                             .length = x_bytes / row,
                             .wraps = map.wraps});
  });
}

// Where the pieces of a concat end within a block of y, in units, and where they lie.
constexpr int most_pieces = 128;
template <class U>
struct ConcatPieces {
  int count = 0;
  std::array<const U*, most_pieces> x{};
  std::array<int64_t, most_pieces> end{};
};

// Blocks of `window` units, from unit `first` of every block of y on.
template <class U>
__global__ void concat_kernel(U* y, int64_t n, Divisor window, int64_t y_block, int64_t first, ConcatPieces<U> pieces) {
  for (int64_t e = grid_start(); e < n; e += grid_stride()) {
    const int64_t block = window.divide(e), at = e - block * window.value();
    int low = 0, high = pieces.count - 1;  // the piece that holds `at`
    while (low < high) {
      const int middle = (low + high) / 2;
      if (at < pieces.end[static_cast<size_t>(middle)]) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    const int64_t begin = low == 0 ? 0 : pieces.end[static_cast<size_t>(low - 1)], size = pieces.end[static_cast<size_t>(low)] - begin;
    store_unit(y + block * y_block + first + at, load_unit(pieces.x[static_cast<size_t>(low)] + block * size + at - begin));
  }
}

// ---- strided axes -----------------------------------------------------------------------------------------------------------------------

template <class U>
struct Strided {
  const U* x;
  StridedOffset at;
  __device__ U operator()(int64_t e) const { return load_unit(x + at(e)); }
};

// Units of 16 bytes that hold one element of x again and again.
template <class T>
struct StridedRepeated {
  const T* x;
  StridedOffset at;
  __device__ Unit16 operator()(int64_t e) const {
    constexpr uint64_t ones = ~uint64_t{0} / std::numeric_limits<T>::max();  // 1 in the place of every element
    const uint64_t word = ones * x[at(e)];
    return {{word, word}};
  }
};

void copy_elements(Tensor& y, const Tensor& x, StridedCopy copy) {
  const auto last = static_cast<size_t>(std::max(copy.rank - 1, 0));
  const int64_t size = size_of(y.dtype()), run = copy.size[last] * size;  // bytes of the innermost axis
  if (copy.rank > 0 && copy.stride[last] == 0 && widest_unit(address(y), run) == sizeof(Unit16)) {
    copy.size[last] = run / static_cast<int64_t>(sizeof(Unit16));
    return dispatch_size(y.dtype(), [&]<class T>() {
      produce<Unit16>(y, copy.count(), StridedRepeated<T>{static_cast<const T*>(x.raw()), StridedOffset(copy)});
    });
  }
  int64_t unit = size;
  if (copy.rank > 0 && copy.stride[last] == 1) {
    unit = widest_unit(address(y), address(x), run);
    for (size_t axis = 0; axis < last; ++axis) unit = widest_unit(unit, copy.stride[axis] * size);
    copy.size[last] = run / unit;
    for (size_t axis = 0; axis < last; ++axis) copy.stride[axis] = copy.stride[axis] * size / unit;
  }
  dispatch_unit(unit, [&]<class U>() { produce<U>(y, copy.count(), Strided<U>{static_cast<const U*>(x.raw()), StridedOffset(copy)}); });
}

// ---- transposed planes ------------------------------------------------------------------------------------------------------------------

// Planes of y [rows, columns] that are the transposes of planes of x [columns, rows].
struct Planes {
  int64_t rows, columns, y_stride, x_stride;  // the strides are those of whole lines
  Divisor row_tiles, column_tiles;
  StridedOffset in_y, in_x;
};

constexpr int tile_lanes = 32, tile_lines = block_threads / tile_lanes;

// Tiles of `side` x `side` elements: lines of x are read whole and lines of y written whole, V elements at a time.
template <class T, int V>
__global__ void transpose_kernel(T* y, const T* x, Planes planes, int64_t tiles) {
  constexpr int side = tile_lanes * V;
  constexpr int pitch = side + V;  // an odd number of words, so that neighbours in a column are in different banks
  WEFT_SHARED(T, tile, side * pitch);
  const int lane = static_cast<int>(threadIdx.x) % tile_lanes * V, line = static_cast<int>(threadIdx.x) / tile_lanes;
  for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const int64_t rest = planes.column_tiles.divide(t), plane = planes.row_tiles.divide(rest);
    const int64_t column = (t - rest * planes.column_tiles.value()) * side, row = (rest - plane * planes.row_tiles.value()) * side;
    const T* from = x + planes.in_x(plane) + column * planes.x_stride + row;
    T* to = y + planes.in_y(plane) + row * planes.y_stride + column;
    const int64_t rows = planes.rows - row, columns = planes.columns - column;
    WEFT_UNROLL
    for (int j = line; j < side; j += tile_lines) {
      if (j < columns && lane < rows) store_pack<V>(tile + j * pitch + lane, load_pack<V>(from + j * planes.x_stride + lane));
    }
    __syncthreads();
    WEFT_UNROLL
    for (int i = line; i < side; i += tile_lines) {
      if (i >= rows || lane >= columns) continue;
      Pack<T, V> pack;
      for (int v = 0; v < V; ++v) pack.value[v] = tile[(lane + v) * pitch + i];
      store_pack<V>(to + i * planes.y_stride + lane, pack);
    }
    __syncthreads();
  }
}

// The innermost axis of y strides through x, and x's innermost axis, `fast`, is another one of y.
void transpose_planes(Tensor& y, const Tensor& x, const StridedCopy& copy, int fast) {
  const auto last = static_cast<size_t>(copy.rank - 1), row_axis = static_cast<size_t>(fast);
  const StridedCopy in_y = copy.in_y();
  const StridedCopy from = copy.without(copy.rank - 1).without(fast), to = in_y.without(copy.rank - 1).without(fast);
  Planes planes{.rows = copy.size[row_axis],
                .columns = copy.size[last],
                .y_stride = in_y.stride[row_axis],
                .x_stride = copy.stride[last],
                .row_tiles = {},
                .column_tiles = {},
                .in_y = StridedOffset(to),
                .in_x = StridedOffset(from)};
  dispatch_size(y.dtype(), [&]<class T>() {
    // Lines start and end at multiples of V elements, in every plane.
    constexpr int word = sizeof(T) < 4 ? static_cast<int>(4 / sizeof(T)) : 1;
    int64_t whole = widest_unit(planes.rows, planes.columns, planes.y_stride, planes.x_stride);
    for (int axis = 0; axis < from.rank; ++axis) {
      whole = widest_unit(whole, from.stride[static_cast<size_t>(axis)], to.stride[static_cast<size_t>(axis)]);
    }
    T* out = static_cast<T*>(y.raw());
    const T* in = static_cast<const T*>(x.raw());
    const auto run = [&]<int V>() {
      const int64_t row_tiles = ceil_div(planes.rows, tile_lanes * V), column_tiles = ceil_div(planes.columns, tile_lanes * V);
      const int64_t tiles = from.count() * row_tiles * column_tiles;
      planes.row_tiles = Divisor(row_tiles);
      planes.column_tiles = Divisor(column_tiles);
      launch(transpose_kernel<T, V>, grid_over(tiles, 1), block_threads, 0, out, in, planes, tiles);
    };
    if (word > 1 && whole % word == 0 && can_pack<word>(out, in)) {
      run.template operator()<word>();
    } else {
      run.template operator()<1>();
    }
  });
}

}  // namespace

void permute(Tensor& y, const Tensor& x, std::span<const int> axes) {
  if (y.numel() == 0) return;
  const StridedCopy copy = permuted_copy(y.shape(), x.shape(), axes);
  const int fast = static_cast<int>(std::find(copy.stride.begin(), copy.stride.begin() + copy.rank, 1) - copy.stride.begin());
  // Where one side of the planes is short, most of a tile would be empty, and what lies between two elements is soon read, too.
  constexpr int64_t shortest_side = tile_lanes / 2;
  const bool planes = copy.rank >= 2 && fast < copy.rank - 1 &&
                      std::min(copy.size[static_cast<size_t>(fast)], copy.size[static_cast<size_t>(copy.rank - 1)]) >= shortest_side;
  if (planes) {
    transpose_planes(y, x, copy, fast);
  } else {
    copy_elements(y, x, copy);
  }
}

void broadcast_to(Tensor& y, const Tensor& x) {
  if (y.numel() > 0) copy_elements(y, x, broadcast_copy(y.shape(), x.shape()));
}

void repeat(Tensor& y, const Tensor& x) {
  if (y.numel() > 0) copy_elements(y, x, repeated_copy(y.shape(), x.shape()));
}

void slice(Tensor& y, const Tensor& x, int axis, int64_t begin, int64_t step) { move_rows(y, x, axis, {.begin = begin, .step = step}); }

void slice_backward(Tensor& y, const Tensor& x, int axis, int64_t begin, int64_t step) {
  move_rows(y, x, axis, {.begin = -begin, .every = step});
}

void pad(Tensor& y, const Tensor& x, int axis, int64_t before, double value) { move_rows(y, x, axis, {.begin = -before}, value); }

void flip(Tensor& y, const Tensor& x, int axis) { move_rows(y, x, axis, {.begin = x.shape()[axis] - 1, .step = -1}); }

void roll(Tensor& y, const Tensor& x, int axis, int64_t shift) {
  const int64_t size = x.shape()[axis];
  if (size > 0) move_rows(y, x, axis, {.begin = -(((shift % size) + size) % size), .wraps = true});
}

void concat(Tensor& y, std::span<const Tensor> xs, int axis) {
  if (y.numel() == 0) return;
  const AxisView view = view_along(y.shape(), axis);
  const int64_t row_bytes = view.inner * size_of(y.dtype());
  int64_t unit = widest_unit(address(y));
  for (const Tensor& x : xs) unit = widest_unit(unit, address(x), x.shape()[axis] * row_bytes);
  const int64_t y_block = view.length * row_bytes / unit;
  dispatch_unit(unit, [&]<class U>() {
    int64_t first = 0;
    for (size_t next = 0; next < xs.size();) {
      ConcatPieces<U> pieces;
      int64_t window = 0;
      for (; next < xs.size() && pieces.count < most_pieces; ++next) {
        const int64_t size = xs[next].shape()[axis] * row_bytes / unit;
        if (size == 0) continue;
        const auto at = static_cast<size_t>(pieces.count++);
        pieces.x[at] = static_cast<const U*>(xs[next].raw());
        pieces.end[at] = window += size;
      }
      if (window == 0) break;
      const int64_t n = view.outer * window;
      launch(concat_kernel<U>, grid_over(n), block_threads, 0, static_cast<U*>(y.raw()), n, Divisor(window), y_block, first, pieces);
      first += window;
    }
  });
}

}  // namespace weft::cuda
