// Tiles on CUDA cores, for every dtype: 64 rows against 64 columns, all of them rows of q, k, v or their gradients.
//
//     products: s[row][column] = x[row] . y[column]           accumulate: sums[row][e] += weights[row][column] y[column][e]
//
// x and y pass through shared memory in chunks of 64 (float64: 32) of their columns, whatever the head's width is; an operand of one chunk
// is loaded once and stays. A thread owns 8 x 4 (4 x 4) scores and the same rows of sums, 16 bytes of each chunk: 8 (4) multiply-adds for
// an element read from shared memory, and all of a row is in one half of a warp.
//
// Indices 0 .. 63 of a tile's side lie in shared memory at `places`: the n-th index of thread t at t + n * threads. So neighbouring threads
// read neighbouring rows, 16 bytes of an odd number of 16 bytes apart, which meets every bank once; and yet the 4 columns of a thread are
// neighbours in mask, bias, dropout stream and weights.
#pragma once

#include "weft/attention/cuda/problem.cuh"

namespace weft::cuda {

/// A: what it computes in.
template <class A>
struct Tile {
  static constexpr int side = 64;
  static constexpr int pack = pack_size<A>;
  static constexpr int rows = sizeof(A) == 4 ? 8 : 4, columns = 4;  // of a thread
  static constexpr int across = side / columns, down = side / rows, threads = across * down;
  static constexpr int width = across * pack;         // columns of a chunk
  static constexpr int stride = width + pack;         // of its rows in shared memory
  static constexpr int weights_stride = side + pack;  // of the rows of a tile of weights
  static constexpr int chunk = side * stride;         // elements of these
  static constexpr int weights = side * weights_stride;

  static __device__ int x() { return static_cast<int>(threadIdx.x) % across; }
  static __device__ int y() { return static_cast<int>(threadIdx.x) / across; }
  /// The thread's rows and columns: indices within the tile, and where these are in shared memory.
  static __device__ int row(int r) { return y() * rows + r; }
  static __device__ int column(int c) { return x() * columns + c; }
  static __device__ int row_place(int r) { return y() + r * down; }
  static __device__ int column_place(int c) { return x() + c * across; }
  static __device__ constexpr int row_place_of(int index) { return index / rows + index % rows * down; }
  static __device__ constexpr int column_place_of(int index) { return index / columns + index % columns * across; }
  /// Of its scores in a tile of weights.
  static __device__ int place(int r, int c) { return row_place(r) * weights_stride + column_place(c); }
};

template <class A>
using Scores = A[Tile<A>::rows][Tile<A>::columns];
/// The thread's part of 64 rows of C chunks.
template <class A, int C>
using Sums = A[C][Tile<A>::rows][Tile<A>::pack];

enum class Side { rows, columns };

/// Rows [first, first + 64) of one head of an array, as one side of a tile. Rows outside [begin, end) count as zero: they may hold
/// anything.
template <class T, Side side>
struct Operand {
  const T* data = nullptr;
  int64_t stride = 0;
  int width = 0;
  Span limits;
  acc_of<T> factor = 1;
  bool packed = false;
  int first = 0;

  __device__ Operand(const RowArray<const T>& array, int b, int h, int columns, Span limit, acc_of<T> times = 1)
      : data(array.at(b, h, 0)),
        stride(array.row),
        width(columns),
        limits(limit),
        factor(times),
        packed(columns % pack_size<T> == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0) {}
  __device__ bool has(int row) const { return row >= limits.first && row < limits.end; }
  /// One chunk is all: it need not be loaded again.
  __device__ bool stays() const { return width <= Tile<acc_of<T>>::width; }
};

/// Columns [column, column + width of a chunk) of an operand on their way to shared memory: fetched before the barrier that frees the
/// place, if they can be read in packs. A thread has the same columns of rows that are `step` apart.
template <class T, Side side>
class Chunk {
  using A = acc_of<T>;
  using S = Tile<A>;
  static constexpr int pack = pack_size<T>, packs = S::width / pack, step = S::threads / packs, count = S::side / step;

 public:
  __device__ Chunk(const Operand<T, side>& from, int column) : from_(from), column_(column + first_column()) {
    if (!from.packed) return;
    const T* p = from.data + (from.first + first_row()) * from.stride + column_;
    WEFT_UNROLL
    for (int n = 0; n < count; ++n, p += step * from.stride) {
      const bool inside = from.has(from.first + first_row() + n * step) && column_ < from.width;
      pack_[n] = inside ? load_pack<pack>(p) : Pack<T, pack>{};
    }
  }
  __device__ void store(A* to) const {
    to += place(first_row()) * S::stride + first_column();
    constexpr int places = place(step);  // places of step rows: as far apart as their indices' places
    if (from_.packed) {
      WEFT_UNROLL
      for (int n = 0; n < count; ++n) {
        WEFT_UNROLL
        for (int l = 0; l < pack; l += S::pack) {
          Pack<A, S::pack> out;
          WEFT_UNROLL
          for (int e = 0; e < S::pack; ++e) out.value[e] = from_.factor * widen(pack_[n].value[l + e]);
          store_pack<S::pack>(to + n * places * S::stride + l, out);
        }
      }
      return;
    }
    const T* p = from_.data + (from_.first + first_row()) * from_.stride + column_;
    WEFT_UNROLL_BY(1)
    for (int n = 0; n < count; ++n, p += step * from_.stride) {
      WEFT_UNROLL_BY(1)
      for (int l = 0; l < pack; ++l) {
        const bool inside = from_.has(from_.first + first_row() + n * step) && column_ + l < from_.width;
        to[n * places * S::stride + l] = inside ? from_.factor * widen(p[l]) : A(0);
      }
    }
  }

 private:
  static __device__ constexpr int place(int index) { return side == Side::rows ? S::row_place_of(index) : S::column_place_of(index); }
  static_assert(step % S::rows == 0 && step % S::columns == 0);  // so that place(n * step + t) = n * place(step) + place(t)
  static __device__ int first_row() { return static_cast<int>(threadIdx.x) / packs; }
  static __device__ int first_column() { return static_cast<int>(threadIdx.x) % packs * pack; }

  const Operand<T, side>& from_;
  int column_;
  Pack<T, pack> pack_[count];
};

/// Every thread of the block calls it; a barrier must follow.
template <class T, Side side>
__device__ void load(acc_of<T>* to, const Operand<T, side>& from, int column = 0) {
  const Chunk<T, side> chunk(from, column);
  __syncthreads();
  chunk.store(to);
}

/// s = x . y. x is at xs already if it stays; afterwards y is at ys, if that stays.
template <class T>
__device__ void products(Scores<acc_of<T>>& s, const Operand<T, Side::rows>& x, acc_of<T>* xs, const Operand<T, Side::columns>& y,
                         acc_of<T>* ys) {
  using A = acc_of<T>;
  using S = Tile<A>;
  WEFT_UNROLL
  for (int r = 0; r < S::rows; ++r) {
    WEFT_UNROLL
    for (int c = 0; c < S::columns; ++c) s[r][c] = 0;
  }
  for (int column = 0; column < x.width; column += S::width) {
    if (!x.stays()) load(xs, x, column);
    const Chunk<T, Side::columns> next(y, column);
    if (x.stays()) __syncthreads();
    next.store(ys);
    __syncthreads();
    const int depth = x.width - column < S::width ? x.width - column : S::width;
    WEFT_UNROLL_BY(1)
    for (int d = 0; d < depth; d += S::pack) {
      Pack<A, S::pack> b[S::columns];
      WEFT_UNROLL
      for (int c = 0; c < S::columns; ++c) b[c] = load_pack<S::pack>(ys + S::column_place(c) * S::stride + d);
      WEFT_UNROLL
      for (int r = 0; r < S::rows; ++r) {
        const Pack<A, S::pack> a = load_pack<S::pack>(xs + S::row_place(r) * S::stride + d);
        WEFT_UNROLL
        for (int c = 0; c < S::columns; ++c) {
          WEFT_UNROLL
          for (int l = 0; l < S::pack; ++l) s[r][c] += a.value[l] * b[c].value[l];
        }
      }
    }
  }
}

/// Puts weights where `accumulate` finds them, after a __syncwarp: the lanes that read a row are those that write it.
template <class A>
__device__ void put_weights(A* to, const Scores<A>& weights) {
  using S = Tile<A>;
  __syncwarp();  // rows may still be read
  WEFT_UNROLL
  for (int r = 0; r < S::rows; ++r) {
    WEFT_UNROLL
    for (int c = 0; c < S::columns; ++c) to[S::place(r, c)] = weights[r][c];
  }
}
template <class A>
__device__ void get_weights(Scores<A>& weights, const A* from) {
  using S = Tile<A>;
  WEFT_UNROLL
  for (int r = 0; r < S::rows; ++r) {
    WEFT_UNROLL
    for (int c = 0; c < S::columns; ++c) weights[r][c] = from[S::place(r, c)];
  }
}

/// sums += weights y, for C chunks of the columns of y from `column` on. y is at ys already if it is `loaded`.
template <int C, class T>
__device__ void accumulate(Sums<acc_of<T>, C>& sums, const acc_of<T>* weights, const Operand<T, Side::columns>& y, acc_of<T>* ys,
                           int column, bool loaded) {
  using A = acc_of<T>;
  using S = Tile<A>;
  WEFT_UNROLL
  for (int chunk = 0; chunk < C; ++chunk, column += S::width) {
    if (column >= y.width) continue;
    if (!loaded) {
      load(ys, y, column);
      __syncthreads();
    }
    WEFT_UNROLL_BY(1)
    for (int j = 0; j < S::side; j += S::pack) {
      Pack<A, S::pack> b[S::pack];
      WEFT_UNROLL
      for (int l = 0; l < S::pack; ++l) b[l] = load_pack<S::pack>(ys + (j + l) * S::stride + S::x() * S::pack);
      WEFT_UNROLL
      for (int r = 0; r < S::rows; ++r) {
        const Pack<A, S::pack> a = load_pack<S::pack>(weights + S::row_place(r) * S::weights_stride + j);
        WEFT_UNROLL
        for (int l = 0; l < S::pack; ++l) {
          WEFT_UNROLL
          for (int e = 0; e < S::pack; ++e) sums[chunk][r][e] += a.value[l] * b[l].value[e];
        }
      }
    }
  }
}

/// Rows [first, end) of an output from the thread's part of C chunks of them, times a factor for each row.
template <int C, class T>
__device__ void store_sums(const RowArray<T>& out, int b, int h, int first, int end, int column, int width, const Sums<acc_of<T>, C>& sums,
                           const acc_of<T> (&factors)[Tile<acc_of<T>>::rows]) {
  using S = Tile<acc_of<T>>;
  const bool packed = width % S::pack == 0 && reinterpret_cast<uintptr_t>(out.data) % (sizeof(T) * S::pack) == 0;
  WEFT_UNROLL
  for (int r = 0; r < S::rows; ++r) {
    const int row = first + S::row(r);
    if (row >= end) continue;
    WEFT_UNROLL
    for (int chunk = 0; chunk < C; ++chunk) {
      const int e = column + chunk * S::width + S::x() * S::pack;
      T* to = out.at(b, h, row) + e;
      Pack<T, S::pack> values;
      WEFT_UNROLL
      for (int l = 0; l < S::pack; ++l) values.value[l] = narrow<T>(factors[r] * sums[chunk][r][l]);
      if (packed && e < width) store_pack<S::pack>(to, values);
      WEFT_UNROLL
      for (int l = 0; l < S::pack && !packed; ++l) {
        if (e + l < width) to[l] = values.value[l];
      }
    }
  }
}

// ---- between the products: loops with much in them go over `scratch`, the place of weights, for one over registers must be unrolled ----

/// Which pair is a thread's score [r][c]: queries from i0 on are rows or columns, keys from j0 on are the other side.
template <Side queries, class A>
struct Pair {
  using S = Tile<A>;
  int i, j;
  __device__ Pair(int i0, int j0, int r, int c)
      : i(i0 + (queries == Side::rows ? S::row(r) : S::column(c))), j(j0 + (queries == Side::rows ? S::column(c) : S::row(r))) {}
};

/// Calls f(i, j, score) for the thread's scores.
template <Side queries, class A, class F>
__device__ void edit_each(Scores<A>& s, int i0, int j0, A* scratch, F f) {
  using S = Tile<A>;
  put_weights(scratch, s);
  WEFT_UNROLL_BY(1)
  for (int r = 0; r < S::rows; ++r) {
    WEFT_UNROLL
    for (int c = 0; c < S::columns; ++c) {
      const Pair<queries, A> at(i0, j0, r, c);
      f(at.i, at.j, scratch[S::place(r, c)]);
    }
  }
  get_weights(s, scratch);
}

/// Scores from the products scale q . k: bias, mask, window.
template <Side queries, class T>
__device__ void edit_scores(const Problem<T>& p, int b, int h, int i0, int j0, int keys, Scores<acc_of<T>>& s, acc_of<T>* scratch) {
  using A = acc_of<T>;
  constexpr int side = Tile<A>::side;
  if (!p.edits() && p.interior(i0, i0 + side, j0, j0 + side, keys)) return;
  edit_each<queries>(s, i0, j0, scratch, [&](int i, int j, A& score) { score = p.score(b, h, i, j, keys, score); });
}

/// Dropout multipliers in the place of weights, for the thread's own pairs; without dropout nothing.
template <Side queries, class T>
__device__ void put_multipliers(acc_of<T>* to, const Problem<T>& p, int b, int h, int i0, int j0) {
  using A = acc_of<T>;
  using S = Tile<A>;
  if (!p.drops()) return;
  constexpr bool by_rows = queries == Side::rows;  // the keys of one query are neighbours in the stream
  constexpr int count = by_rows ? S::columns : S::rows;
  __syncwarp();  // rows may still be read
  WEFT_UNROLL_BY(1)
  for (int n = 0; n < (by_rows ? S::rows : S::columns); ++n) {
    const Pair<queries, A> at(i0, j0, by_rows ? n : 0, by_rows ? 0 : n);
    A multipliers[count];
    p.multipliers(b, h, at.i, at.j, multipliers);
    WEFT_UNROLL
    for (int l = 0; l < count; ++l) to[by_rows ? S::place(n, l) : S::place(l, n)] = multipliers[l];
  }
}

/// s times the multipliers that put_multipliers left, if there are any.
template <class A>
__device__ void multiply(Scores<A>& s, const A* multipliers, bool drops) {
  using S = Tile<A>;
  if (!drops) return;
  WEFT_UNROLL
  for (int r = 0; r < S::rows; ++r) {
    WEFT_UNROLL
    for (int c = 0; c < S::columns; ++c) s[r][c] *= multipliers[S::place(r, c)];
  }
}

/// What a block works on, of a grid over heads, slabs (parts of wide rows) and tiles.
struct Job {
  int b, h, slab, tile;
  __device__ Job(int heads, int slabs, int tiles) {
    const int block = static_cast<int>(blockIdx.x), rest = block / tiles;
    tile = block % tiles;
    slab = rest % slabs;
    h = rest / slabs % heads;
    b = rest / slabs / heads;
  }
};

}  // namespace weft::cuda
