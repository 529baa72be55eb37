// What the attention kernels on tensor cores share: tiles in shared memory, products of one warp with them, and what happens to a tile of
// scores in registers. float16 and bfloat16 only; layouts of registers: core/cuda/mma.cuh.
//
// A warp holds a block of 16 R x 8 C sums as R x C times four registers: rows g and g + 8, columns c and c + 1 of each 16 x 8. Scores are
// held with queries as rows (forward, dq), or transposed, with keys as rows (dk, dv): the product that comes next wants it so.
#pragma once

#include "weft/attention/cuda/problem.cuh"
#include "weft/core/cuda/mma.cuh"

namespace weft::cuda {

inline constexpr float log2_e = 1.44269504088896341F;
inline constexpr float hidden_score = -std::numeric_limits<float>::infinity();

__device__ inline int lane_of_warp() { return static_cast<int>(threadIdx.x) % lanes_per_warp; }
__device__ inline int warp_of_block() { return static_cast<int>(threadIdx.x) / lanes_per_warp; }
/// g and c of this lane.
__device__ inline int group_of_lane() { return lane_of_warp() / 4; }
__device__ inline int column_of_lane() { return lane_of_warp() % 4 * 2; }

template <int R, int C>
using WarpSums = float[R][C][4];

/// Calls f(r, c, e) for every register, all of them constants once it is unrolled.
template <int R, int C, class F>
__device__ inline void for_each_sum(F f) {
  WEFT_UNROLL
  for (int r = 0; r < R; ++r) {
    WEFT_UNROLL
    for (int c = 0; c < C; ++c) {
      WEFT_UNROLL
      for (int e = 0; e < 4; ++e) f(r, c, e);
    }
  }
}

// ---- tiles in shared memory ------------------------------------------------------------------------------------------------------------

/// A tile: rows of Width elements, 64, 128 or 256. The 16-byte chunks of row r are exchanged within 128 bytes by r % 8, so that eight rows
/// of one column of chunks, which ldmatrix reads at a time, lie in different banks. Tiles begin at multiples of 128 bytes.
template <int Width>
struct Swizzled {
  static_assert(Width % 64 == 0);
  static constexpr int chunks = Width / 8, row_bytes = 2 * Width;
  static constexpr int bytes(int rows) { return rows * row_bytes; }
  __device__ static int offset(int row, int chunk) { return row * row_bytes + ((chunk ^ (row & 7)) << 4); }

  /// What this lane adds to the address of a tile to give its row of the first block of 16 x 16: for left sides and transposed right ones,
  /// or for right sides by columns (mma.cuh).
  __device__ static SharedAddress lane_offset() { return static_cast<SharedAddress>(offset(lane_of_warp() % 16, lane_of_warp() / 16)); }
  __device__ static SharedAddress columns_lane_offset() {
    return static_cast<SharedAddress>(offset(lane_of_warp() % 8 + lane_of_warp() / 16 * 8, lane_of_warp() / 8 % 2));
  }
  /// From there, the block at row `row`, a multiple of 16, and column 16 `step`.
  __device__ static SharedAddress block(SharedAddress first, int row, int step) {
    return (first ^ static_cast<SharedAddress>((step & 3) << 5)) + static_cast<SharedAddress>(step / 4 * 128 + row * row_bytes);
  }
};

/// The block's dynamic shared memory from its first multiple of 128 bytes on.
inline constexpr int tile_alignment = 128;
__device__ inline unsigned char* aligned_tiles(unsigned char* memory) {
  const auto address = shared_address(memory);
  return memory + (-address & (tile_alignment - 1));
}

/// Starts copies of a head's rows to tiles of Rows rows, one tile after the other, by all Threads of the block: zeros for rows from `end`
/// on and columns from `width` on. Rows begin at multiples of 16 bytes, and width is a multiple of 8.
template <class T, int Width, int Rows, int Threads>
class TileCopier {
 public:
  __device__ TileCopier(const T* head, int stride, int first, int end, int width)
      : from_(head + static_cast<int64_t>(first + row()) * stride + 8 * chunk()), left_(8 * chunk() < width ? end - first - row() : 0) {}
  __device__ void copy_next(SharedAddress tile, int stride) {
    WEFT_UNROLL
    for (int r = 0; r < Rows; r += at_once) {
      copy_async(tile + static_cast<SharedAddress>(Swizzled<Width>::offset(row() + r, chunk())), from_ + static_cast<int64_t>(stride) * r,
                 r < left_);
    }
    from_ += static_cast<int64_t>(stride) * Rows;
    left_ -= Rows;
  }

 private:
  static constexpr int chunks = Swizzled<Width>::chunks, at_once = Threads / chunks;
  static_assert(Threads % chunks == 0 && Rows % at_once == 0);
  __device__ static int row() { return static_cast<int>(threadIdx.x) / chunks; }
  __device__ static int chunk() { return static_cast<int>(threadIdx.x) % chunks; }

  const T* from_;  // this thread's chunk of its first row in the next tile
  int left_;       // rows from there to the end; none if the chunk lies beyond the width
};

// ---- products of one warp --------------------------------------------------------------------------------------------------------------

/// sums = a b^T: 16 R rows of tile a with 8 C rows of tile b. `a`: with lane_offset, `b`: with columns_lane_offset.
template <class T, int Width, int R, int C>
__device__ inline void multiply_rows(WarpSums<R, C>& sums, SharedAddress a, SharedAddress b) {
  using S = Swizzled<Width>;
  for_each_sum<R, C>([&](int r, int c, int e) { sums[r][c][e] = 0; });
  WEFT_UNROLL
  for (int step = 0; step < Width / 16; ++step) {
    uint32_t left[R][4];
    WEFT_UNROLL
    for (int r = 0; r < R; ++r) load_matrices(left[r], S::block(a, 16 * r, step));
    WEFT_UNROLL
    for (int c = 0; c < C; c += 2) {
      uint32_t right[4];
      load_matrices(right, S::block(b, 8 * c, step));
      WEFT_UNROLL
      for (int r = 0; r < R; ++r) {
        mma<T>(sums[r][c], left[r], right[0], right[1]);
        mma<T>(sums[r][c + 1], left[r], right[2], right[3]);
      }
    }
  }
}

/// sums += w b: a block of 16 R x 8 K of this warp, rounded to T, with 8 K rows of tile b, with lane_offset.
template <class T, int Width, int R, int K, int C>
__device__ inline void add_weighted_rows(WarpSums<R, C>& sums, const WarpSums<R, K>& w, SharedAddress b) {
  using S = Swizzled<Width>;
  WEFT_UNROLL
  for (int k = 0; k < K; k += 2) {
    uint32_t left[R][4];
    WEFT_UNROLL
    for (int r = 0; r < R; ++r) {
      left[r][0] = pack_two<T>(w[r][k][0], w[r][k][1]);
      left[r][1] = pack_two<T>(w[r][k][2], w[r][k][3]);
      left[r][2] = pack_two<T>(w[r][k + 1][0], w[r][k + 1][1]);
      left[r][3] = pack_two<T>(w[r][k + 1][2], w[r][k + 1][3]);
    }
    WEFT_UNROLL
    for (int c = 0; c < C; c += 2) {
      uint32_t right[4];
      load_matrices_transposed(right, S::block(b, 8 * k, c / 2));
      WEFT_UNROLL
      for (int r = 0; r < R; ++r) {
        mma<T>(sums[r][c], left[r], right[0], right[1]);
        mma<T>(sums[r][c + 1], left[r], right[2], right[3]);
      }
    }
  }
}

// ---- scores in registers ---------------------------------------------------------------------------------------------------------------

/// Who a warp's block of scores is: batch, head, its first row and column. Rows are queries and columns keys, or, transposed, the other
/// way.
struct ScorePlace {
  int b, h, row, column, keys;  // keys: of this batch, without padding
};

/// An array over pairs as this lane reads it: from its first pair of a block of scores on.
template <bool transposed, class T>
struct LanePairs {
  T* first;
  int row_step, column_step;

  __device__ LanePairs(const PairArray<T>& x, const ScorePlace& at)
      : row_step(static_cast<int>(transposed ? x.key : x.row)), column_step(static_cast<int>(transposed ? x.row : x.key)) {
    const int row = at.row + group_of_lane(), column = at.column + column_of_lane();
    first = transposed ? x.at(at.b, at.h, column, row) : x.at(at.b, at.h, row, column);
  }
  __device__ T* at(int row, int column) const {
    return first + static_cast<int64_t>(row_step) * row + static_cast<int64_t>(column_step) * column;
  }
};

/// Does the block see all of its pairs? Those of queries from N on do not count.
template <bool transposed, int R, int C, class T>
__device__ inline bool all_visible(const Problem<T>& p, const ScorePlace& at) {
  const int rows = 16 * R, columns = 8 * C;
  if (transposed) return p.interior(at.column, at.column + columns, at.row, at.row + rows, at.keys);
  return p.interior(at.row, at.row + rows, at.column, at.column + columns, at.keys);
}
/// Or none, so that it need not be computed?
template <bool transposed, int R, int C, class T>
__device__ inline bool none_visible(const Problem<T>& p, const ScorePlace& at) {
  const int rows = 16 * R, columns = 8 * C;
  const int i = transposed ? at.column : at.row, queries = transposed ? columns : rows;
  const int j = transposed ? at.row : at.column, own_keys = transposed ? rows : columns;
  if (i >= p.N) return true;
  const Span seen = p.keys_seen(i, i + queries, at.keys);
  return seen.first >= j + own_keys || seen.end <= j;
}

/// Calls f(r, c, e, row, column, visible) for the pairs of this lane: where they are, counted from its first, and whether the query sees
/// the key as far as window, causality and padding go. Pairs of queries from N on may count as visible, unless `checked`.
template <bool transposed, bool checked, int R, int C, class T, class F>
__device__ inline void for_each_pair(const Problem<T>& p, const ScorePlace& at, F f) {
  const int row0 = at.row + group_of_lane(), column0 = at.column + column_of_lane();
  // Row r sees columns from first + r to end + r - 1, below `columns`. One number for all rows, and one that changes with the tile: else
  // nvcc keeps bounds for every row in registers that it does not have.
  const int diagonal = row0 - column0 + (transposed ? p.N - p.M : p.M - p.N);
  const int first = diagonal - (transposed ? p.right : p.left), end = diagonal + (transposed ? p.left : p.right) + 1;
  const int columns = (transposed ? p.N : at.keys) - column0, rows = (transposed ? at.keys : p.N) - row0;
  WEFT_UNROLL
  for (int r = 0; r < R; ++r) {
    WEFT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = 16 * r + 8 * half;
      const int own_columns = (transposed || checked) && row >= rows ? 0 : columns;
      WEFT_UNROLL
      for (int c = 0; c < C; ++c) {
        WEFT_UNROLL
        for (int e = 0; e < 2; ++e) {
          const int column = 8 * c + e;
          f(r, c, 2 * half + e, row, column, column >= first + row && column < std::min(end + row, own_columns));
        }
      }
    }
  }
}

/// s += x at visible pairs.
template <bool transposed, int R, int C, class T>
__device__ inline void add_pairs(const Problem<T>& p, const ScorePlace& at, const PairArray<const T>& x, WarpSums<R, C>& s) {
  const LanePairs<transposed, const T> pairs(x, at);
  for_each_pair<transposed, true, R, C>(p, at, [&](int r, int c, int e, int row, int column, bool visible) {
    if (visible) s[r][c][e] += widen(*pairs.at(row, column));
  });
}

/// -infinity where a query does not see a key. Not edited: products stay as they are elsewhere; edited: scale x + bias, and the mask holds.
template <bool edited, bool transposed, int R, int C, class T>
__device__ inline void edit_scores(const Problem<T>& p, const ScorePlace& at, WarpSums<R, C>& s) {
  if constexpr (!edited) {
    if (all_visible<transposed, R, C>(p, at)) return;
    for_each_pair<transposed, false, R, C>(
        p, at, [&](int r, int c, int e, int, int, bool visible) { s[r][c][e] = visible ? s[r][c][e] : hidden_score; });
  } else {
    for_each_pair<transposed, true, R, C>(
        p, at, [&](int r, int c, int e, int, int, bool visible) { s[r][c][e] = visible ? s[r][c][e] * p.scale : hidden_score; });
    if (p.bias) add_pairs<transposed>(p, at, p.bias, s);
    if (p.mask) {
      const LanePairs<transposed, const bool> mask(p.mask, at);
      for_each_pair<transposed, true, R, C>(p, at, [&](int r, int c, int e, int row, int column, bool visible) {
        if (visible && !*mask.at(row, column)) s[r][c][e] = hidden_score;
      });
    }
  }
}

// ---- dropout ---------------------------------------------------------------------------------------------------------------------------

/// Bit w: is element `element` + w of the stream kept?
template <class T>
__device__ inline uint32_t kept_of_four(const Problem<T>& p, uint64_t element) {
  const auto kept = [&](uint64_t index) {
    const std::array<uint32_t, 4> words = p.key.block(index);
    uint32_t bits = 0;
    WEFT_UNROLL
    for (int w = 0; w < 4; ++w) bits |= (words[static_cast<size_t>(w)] >= p.threshold ? 1U : 0U) << w;
    return bits;
  };
  const auto skipped = static_cast<unsigned>(element % 4);
  uint32_t bits = kept(element / 4);
  if (skipped != 0) bits |= kept(element / 4 + 1) << 4;  // keys are no multiple of four
  return bits >> skipped & 15U;
}

/// Which pairs of a warp's block are kept. Four keys of a query are one block of the stream, and several lanes hold parts of it: each draws
/// a share of the blocks, and they exchange bits.
template <bool transposed, int R, int C>
struct KeptPairs {
  static constexpr int draws = R * C, words = (draws + 7) / 8;
  static constexpr int sharing = transposed ? 4 : 2;  // lanes that hold parts of the same blocks
  uint32_t bits[sharing][words];                      // of the n-th of these lanes: four bits to a draw

  template <class T>
  __device__ KeptPairs(const Problem<T>& p, const ScorePlace& at) {
    const int lane = lane_of_warp(), g = group_of_lane();
    // Of every 16 x 8, a lane holds two neighbours in each of two such fours, as does the lane beside it: each draws one of them, four
    // columns of row g or of row g + 8. Transposed, it holds one key in each of four fours: it draws one, of column c or c + 1.
    const int share = transposed ? g % 4 : lane % 2;
    const int row = at.row + (transposed ? g / 4 * 4 + share / 2 * 8 : g + 8 * share);
    const int column = at.column + (transposed ? column_of_lane() + share % 2 : lane % 4 / 2 * 4);
    uint32_t own[words] = {};
    WEFT_UNROLL
    for (int word = 0; word < words; ++word) {
      WEFT_UNROLL_BY(1)
      for (int n = 0; n < 8 && 8 * word + n < draws; ++n) {
        const int draw = 8 * word + n, i_row = row + 16 * (draw / C), i_column = column + 8 * (draw % C);
        const int i = transposed ? i_column : i_row, j = transposed ? i_row : i_column;
        const uint64_t element = ((static_cast<uint64_t>(at.b) * p.H + at.h) * p.N + i) * p.M + j;
        own[word] |= kept_of_four(p, element) << (4 * n);
      }
    }
    WEFT_UNROLL
    for (int n = 0; n < sharing; ++n) {
      const int from = transposed ? (lane & ~12) | n << 2 : (lane & ~1) | n;
      WEFT_UNROLL
      for (int word = 0; word < words; ++word) bits[n][word] = __shfl_sync(all_lanes, own[word], from);
    }
  }
  __device__ bool operator()(int r, int c, int e) const {
    const int draw = r * C + c, holder = transposed ? e : e / 2;
    const int position = transposed ? group_of_lane() % 4 : lane_of_warp() % 2 * 2 + e % 2;
    return (bits[holder][draw / 8] >> (4 * (draw % 8) + position) & 1U) != 0;
  }
};

/// Calls f(r, c, e, m) with the dropout multiplier m of every pair; drawn ones are 0 or `kept`. All lanes must call it.
template <bool transposed, int R, int C, class T, class F>
__device__ inline void for_each_multiplier(const Problem<T>& p, const ScorePlace& at, float kept, F f) {
  if (p.multiplier) {
    const LanePairs<transposed, const T> pairs(p.multiplier, at);
    for_each_pair<transposed, true, R, C>(
        p, at, [&](int r, int c, int e, int row, int column, bool visible) { f(r, c, e, visible ? widen(*pairs.at(row, column)) : 0.0F); });
  } else if (p.draws) {
    const KeptPairs<transposed, R, C> keeps(p, at);
    for_each_sum<R, C>([&](int r, int c, int e) { f(r, c, e, keeps(r, c, e) ? kept : 0.0F); });
  }
}

// ---- out of registers ------------------------------------------------------------------------------------------------------------------

/// Rows [first, first + 16 R) of a head, those below `end`, from a warp's sums times factor(r, half): through `tile`, 16 R rows of shared
/// memory of this warp's own, so that global memory is written 16 bytes at a time. All lanes must call it.
template <int Width, int R, class T, class F>
__device__ inline void store_rows(T* head, int64_t stride, int first, int end, int width, const WarpSums<R, Width / 8>& sums,
                                  unsigned char* tile, F factor) {
  using S = Swizzled<Width>;
  const int g = group_of_lane(), c0 = column_of_lane();
  __syncwarp();  // others may still read what the tile held
  WEFT_UNROLL
  for (int r = 0; r < R; ++r) {
    WEFT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float x = factor(r, half);
      WEFT_UNROLL
      for (int c = 0; c < Width / 8; ++c) {
        *reinterpret_cast<uint32_t*>(tile + S::offset(16 * r + 8 * half + g, c) + 2 * c0) =
            pack_two<T>(sums[r][c][2 * half] * x, sums[r][c][2 * half + 1] * x);
      }
    }
  }
  __syncwarp();
  const bool packed = width % 8 == 0 && stride % 8 == 0 && (reinterpret_cast<uintptr_t>(head) & 15U) == 0;
  WEFT_UNROLL_BY(4)
  for (int n = lane_of_warp(); n < 16 * R * S::chunks; n += lanes_per_warp) {
    const int row = n / S::chunks, chunk = n % S::chunks;
    if (first + row >= end || 8 * chunk >= width) continue;
    T* to = head + (first + row) * stride + 8 * chunk;
    const Pack<T, 8> pack = load_pack<8>(reinterpret_cast<const T*>(tile + S::offset(row, chunk)));
    if (packed) {
      store_pack<8>(to, pack);
    } else {
      for (int e = 0; e < 8 && 8 * chunk + e < width; ++e) to[e] = pack.value[e];
    }
  }
}

// ---- on the host -----------------------------------------------------------------------------------------------------------------------

/// Calls f.operator()<Width, edited>() for the narrowest tiles that hold the rows of q, k and v.
template <class T, class F>
void with_width(const Problem<T>& p, bool edited, F f) {
  const auto of_width = [&]<int Width>() {
    if (edited) {
      f.template operator()<Width, true>();
    } else {
      f.template operator()<Width, false>();
    }
  };
  const int width = std::max(p.D, p.Dv);
  if (width <= 64) {
    of_width.template operator()<64>();
  } else if (width <= 128) {
    of_width.template operator()<128>();
  } else {
    of_width.template operator()<256>();
  }
}

/// y [.., D rounded up to 8] = x [.., D], zeros behind: elements of two bytes.
void pad_rows(Tensor& y, const Tensor& x);

/// Rows as TileCopier reads them: those of x, or of a copy where they do not all begin at multiples of 16 bytes.
template <class T>
struct CopyableRows {
  RowArray<const T> rows;
  int width;
  Tensor copy;

  CopyableRows(const Tensor& x, AttentionLayout layout) {
    Shape shape = x.shape();
    shape[3] = round_up(shape[3], 8);
    width = static_cast<int>(shape[3]);
    if (shape == x.shape() && can_pack<8>(static_cast<const T*>(x.raw()))) {
      rows = row_array<const T>(x, layout);
    } else {
      copy = empty(shape, x.options());
      pad_rows(copy, x);
      rows = row_array<const T>(copy, layout);
    }
  }
};

}  // namespace weft::cuda
