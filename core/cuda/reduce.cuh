// The reduction of one axis of x [outer, length, inner], in an order that follows from the shape and from whether x can be read in packs.
// reduce.cu sums and finds extremes this way, scan.cu finds their places.
//
// Rows (inner = 1) are taken by groups of lanes, of a width that suits their length, or by whole blocks. Columns are taken by blocks that
// read `lines` rows at a time, neighbours side by side, and join what the lines have found in shared memory. An axis that is so long that
// few groups would read it is cut into pieces, whose results are one more axis to reduce.
//
// A State is what has been found so far, of elements in the arithmetic type A:
//
//     static constexpr A missing;                                                  the element that changes nothing
//     template <int K> void take(const A (&x)[K], int64_t first, int64_t step);    K elements, at first, first + step, ... of the axis
//     void join(const State& other);
//     template <class Reduce> void join_lanes(Reduce reduce);                      reduce(value, f, identity) spans the lanes of a group
//
// and an Output stores it: `template <int N> void store(int64_t i, const State (&x)[N])` for results i, ..., i + N - 1.
#pragma once

#include "weft/core/cuda/common.cuh"

namespace weft::cuda {

/// An axis cut into `count` pieces of `size` elements, the last one perhaps shorter.
struct Pieces {
  int64_t size, count;
};

// ---- kernels --------------------------------------------------------------------------------------------------------------------------

/// Over the lanes of a group: of `width` neighbours in a warp, or of a whole block.
struct GroupReduce {
  int width;
  template <class T, class F>
  __device__ T operator()(T x, F f, T identity) const {
    return width > lanes_per_warp ? block_reduce(x, f, identity) : warp_reduce(x, f, width);
  }
};

template <class State, int N, class T, class Output>
__global__ void reduce_rows_kernel(Output y, const T* x, int64_t rows, int64_t length, Pieces pieces, int group, bool packed) {
  const int lane = static_cast<int>(threadIdx.x) % group;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * (block_threads / group) + static_cast<int>(threadIdx.x) / group;
  State state[1];
  if (item < rows * pieces.count) {
    const T* row = x + item / pieces.count * length;
    const int64_t begin = item % pieces.count * pieces.size, end = std::min(begin + pieces.size, length);
    acc_of<T> values[N];
    if (packed) {
      for (int64_t i = begin + lane * N; i < end; i += group * N) {
        const Pack<T, N> pack = load_pack<N>(row + i);
        for (int j = 0; j < N; ++j) values[j] = widen(pack.value[j]);
        state[0].take(values, i, 1);
      }
    } else {
      for (int64_t i = begin + lane; i < end; i += group * N) {
        for (int j = 0; j < N; ++j) values[j] = i + j * group < end ? widen(row[i + j * group]) : State::missing;
        state[0].take(values, i, group);
      }
    }
  }
  state[0].join_lanes(GroupReduce{group});
  if (lane == 0 && item < rows * pieces.count) y.store(item, state);
}

/// Blocks of `width` columns, where a column is N neighbours of the inner axis.
template <class State, int N, class T, class Output>
__global__ void reduce_columns_kernel(Output y, const T* x, AxisView v, Pieces pieces, int width) {
  constexpr int together = 4;  // rows that are read at once
  const int lines = block_threads / width, line = static_cast<int>(threadIdx.x) / width;
  const int64_t part = blockIdx.x % pieces.count, columns = v.inner / N;
  const int64_t column = blockIdx.x / pieces.count * width + static_cast<int>(threadIdx.x) % width;
  const int64_t o = column / columns, i = column % columns * N;
  const bool active = line < lines && o < v.outer;
  State state[N];
  if (active) {
    const int64_t begin = part * pieces.size, end = std::min(begin + pieces.size, v.length);
    const T* from = x + o * v.length * v.inner + i;
    for (int64_t r = begin + line; r < end; r += lines * together) {
      acc_of<T> values[N][together];
      for (int k = 0; k < together; ++k) {
        Pack<T, N> pack{};
        const bool there = r + k * lines < end;
        if (there) pack = load_pack<N>(from + (r + k * lines) * v.inner);
        for (int j = 0; j < N; ++j) values[j][k] = there ? widen(pack.value[j]) : State::missing;
      }
      for (int j = 0; j < N; ++j) state[j].take(values[j], r, lines);
    }
  }
  // The upper half of the lines is joined to the lower, until one is left.
  WEFT_SHARED(State, shared, N * block_threads);
  for (int left = lines; left > 1;) {
    const int half = (left + 1) / 2;
    if (line >= half && line < left) {
      for (int j = 0; j < N; ++j) shared[j * block_threads + static_cast<int>(threadIdx.x)] = state[j];
    }
    __syncthreads();
    if (line < left - half) {
      for (int j = 0; j < N; ++j) state[j].join(shared[j * block_threads + static_cast<int>(threadIdx.x) + half * width]);
    }
    left = half;
  }
  if (active && line == 0) y.store((o * pieces.count + part) * v.inner + i, state);
}

// ---- launchers ------------------------------------------------------------------------------------------------------------------------

namespace detail {

// Blocks that keep the largest devices busy. A constant: results are the same on all of them.
inline constexpr int64_t enough_blocks = 1024;

// How the blocks of reduce_columns_kernel are shaped.
struct ColumnTile {
  int64_t width, lines, tiles;

  ColumnTile(AxisView v, int pack) {
    constexpr int64_t full_width = 32, rows_per_thread = 4;
    const int64_t columns = v.inner / pack, all = v.outer * columns;
    const int64_t most_lines = block_threads / std::min(columns, full_width);
    lines = std::min(most_lines, ceil_div(v.length, rows_per_thread));
    width = std::min(all, block_threads / lines);
    if (columns < full_width && width > columns) width -= width % columns;  // whole rows of x
    lines = block_threads / width;
    tiles = ceil_div(all, width);
  }
};

template <class T>
int column_pack(const T* x, AxisView v) {
  constexpr int N = pack_size<T>;
  return v.inner % N == 0 && can_pack<N>(x) ? N : 1;
}

}  // namespace detail

/// Pieces enough to fill a device, but neither so short that their results matter nor so long that a thread's sum loses precision.
template <class T>
Pieces cut_axis(const T* x, AxisView v) {
  constexpr int64_t shortest = 4, longest = 256;  // in turns of a thread, each of several elements
  int64_t blocks = v.outer, turn = block_threads * pack_size<T>;
  if (v.inner > 1) {
    const detail::ColumnTile tile(v, detail::column_pack(x, v));
    blocks = tile.tiles;
    turn = tile.lines * 4;
  }
  const int64_t wanted =
      std::max({int64_t{1}, ceil_div(v.length, longest * turn), std::min(detail::enough_blocks / blocks, v.length / (shortest * turn))});
  const int64_t size = round_up(ceil_div(v.length, wanted), pack_size<T>);
  return {size, ceil_div(v.length, size)};
}

/// y [outer, pieces, inner] from x [outer, length, inner], none of them empty: one launch.
template <class State, class T, class Output>
void reduce_pieces(const Output& y, const T* x, AxisView v, Pieces pieces) {
  constexpr int N = pack_size<T>;
  if (v.inner == 1) {
    const int64_t packs = ceil_div(pieces.size, N);
    const int group = packs >= 2 * block_threads
                          ? block_threads
                          : static_cast<int>(std::bit_floor(static_cast<uint64_t>(std::clamp<int64_t>(packs / 2, 1, lanes_per_warp))));
    const bool packed = v.length % N == 0 && can_pack<N>(x);
    launch(reduce_rows_kernel<State, N, T, Output>, ceil_div(v.outer * pieces.count, block_threads / group), block_threads, 0, y, x,
           v.outer, v.length, pieces, group, packed);
    return;
  }
  const int pack = y.template packs<N>() ? detail::column_pack(x, v) : 1;
  const detail::ColumnTile tile(v, pack);
  launch(pack == 1 ? reduce_columns_kernel<State, 1, T, Output> : reduce_columns_kernel<State, N, T, Output>, tile.tiles * pieces.count,
         block_threads, 0, y, x, v, pieces, static_cast<int>(tile.width));
}

}  // namespace weft::cuda
