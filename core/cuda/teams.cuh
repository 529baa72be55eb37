// Who works on what where rows (or columns) are reduced and then passed over again: softmax, norms, losses. A row belongs to a team of
// threads, each of which holds some packs of it in registers between the passes if the whole row fits there.
#pragma once

#include "weft/core/axis.h"
#include "weft/core/cuda/common.cuh"

namespace weft::cuda {

inline constexpr int most_team_threads = 512;
inline constexpr int warp_team_threads = 128;  // of a block of small teams: a few warps

/// Packs of P elements that a thread keeps: registers bound it.
template <int P>
inline constexpr int kept_packs = P > 1 ? 4 : 8;

inline int power_of_two_from(int64_t n) { return static_cast<int>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(n, 1)))); }

/// The share of one thread, as seen by it: packs `lane`, `lane + width`, ... of row `row`. All threads of a block have one, those beyond
/// the last row with no packs, and all of them call `reduce`.
struct Team {
  int64_t row, begin, distance, packs;  // begin: where the row starts; distance: between its packs
  int lane, width, columns;
  bool exists;

  template <int P>
  __device__ int64_t offset(int64_t pack) const {
    return begin + pack * (P > 1 ? P : distance);
  }

  /// f(j, pack) for the j-th of this thread's N packs from pack `first` on.
  template <int N, class F>
  __device__ void each(int64_t first, F f) const {
    WEFT_UNROLL
    for (int j = 0; j < N; ++j) {
      if (first + lane + j * width < packs) f(j, first + lane + j * width);
    }
  }

  /// Over the whole team; every thread gets it.
  template <class T, class F>
  __device__ T reduce(T x, F f, T identity) const {
    if (columns > 0) return reduce_column(x, f);
    return width <= lanes_per_warp ? warp_reduce(x, f, width) : block_reduce(x, f, identity);
  }
  template <class T>
  __device__ T sum(T x) const {
    return reduce(x, Add(), T(0));
  }

  /// Is it so for any of the teams that must take the same branch?
  __device__ bool any(bool condition) const {
    return columns > 0 ? __syncthreads_or(condition) != 0 : __any_sync(all_lanes, condition) != 0;
  }

 private:
  template <class T, class F>
  __device__ T reduce_column(T x, F f) const {
    WEFT_SHARED(T, shares, block_threads);
    __syncthreads();  // an earlier reduction may still be read
    shares[threadIdx.x] = x;
    __syncthreads();
    const int column = static_cast<int>(threadIdx.x) % columns;
    x = shares[column];
    for (int i = 1; i < width; ++i) x = f(x, shares[i * columns + column]);
    return x;
  }
};

/// How the rows or columns of a tensor [outer, length, inner] are shared out.
struct Teams {
  int64_t count = 0, packs = 0;  // teams; packs in a row
  int64_t inner = 1, distance = 1;
  int width = 1, columns = 0;       // threads of a team; neighbouring columns to a block, 0: rows
  int threads = warp_team_threads;  // of a block

  /// Rows of `packs` packs of `pack` elements: lanes of a warp take one if `kept` packs for each of them suffice, else a block does.
  static Teams of_rows(int64_t rows, int64_t packs, int pack, int kept, int most_threads = most_team_threads) {
    Teams t{.count = rows, .packs = packs, .distance = pack};
    if (packs <= int64_t{lanes_per_warp} * kept) {
      t.width = std::min(power_of_two_from(packs), lanes_per_warp);
    } else {  // few packs for each thread while there are threads
      t.width = t.threads =
          static_cast<int>(std::clamp<int64_t>(round_up(ceil_div(packs, std::max(2, kept / 2)), lanes_per_warp), 64, most_threads));
    }
    return t;
  }

  /// Columns of [outer, length, inner], element by element: neighbouring threads read neighbouring columns.
  static Teams of_columns(const AxisView& v, int element_bytes) {
    Teams t{.count = v.outer * v.inner, .packs = v.length, .inner = v.inner, .distance = v.inner, .threads = block_threads};
    const int fewest = 32 / element_bytes;  // memory is read in sectors of 32 bytes
    t.width = std::min(8, power_of_two_from(v.length));
    const auto columns_with = [&](int width) { return block_threads / width; };
    const auto more_threads_help = [&] {
      return columns_with(t.width) > fewest && 2 * t.width <= v.length &&
             ceil_div(t.count, columns_with(t.width)) < int64_t{4} * context().processors;
    };
    while (more_threads_help()) t.width *= 2;
    t.columns = columns_with(t.width);
    return t;
  }

  WEFT_HOST_DEVICE int per_block() const { return columns > 0 ? columns : threads / width; }
  Grid grid(std::source_location where = std::source_location::current()) const { return Grid(ceil_div(count, per_block()), where); }

  /// Do N packs per thread hold a row?
  template <int N>
  WEFT_HOST_DEVICE bool keeps() const {
    return packs <= int64_t{N} * width;
  }

  /// What this thread does in block `block`.
  __device__ Team team(int64_t block) const {
    const int thread = static_cast<int>(threadIdx.x);
    Team t{};
    t.distance = distance;
    t.width = width;
    t.columns = columns;
    if (columns > 0) {
      t.lane = thread / columns;
      t.row = block * columns + thread % columns;
      t.begin = t.row / inner * packs * inner + t.row % inner;
    } else {
      t.lane = thread % width;
      t.row = block * (static_cast<int>(blockDim.x) / width) + thread / width;
      t.begin = t.row * packs * distance;
    }
    t.exists = t.row < count;
    t.packs = t.exists ? packs : 0;
    return t;
  }
};

/// Calls f.operator()<P, N>(teams) for the rows of x along an axis, in packs of P elements, N of which a thread keeps (`most` at most).
/// `packed`: may rows be read in packs as far as addresses are concerned?
template <class T, int most = kept_packs<1>, class F>
void with_teams(const AxisView& v, bool packed, F f) {
  constexpr int P = pack_size<T>, N = std::min(kept_packs<P>, most), N1 = kept_packs<1>;
  if (v.inner > 1) {
    f.template operator()<1, N1>(Teams::of_columns(v, sizeof(T)));
  } else if (!packed || v.length % P != 0) {
    f.template operator()<1, N1>(Teams::of_rows(v.outer, v.length, 1, N1));
  } else if (v.length / P <= lanes_per_warp) {  // a kernel with few registers: more of its threads fit, and short rows need many
    f.template operator()<P, 1>(Teams::of_rows(v.outer, v.length / P, P, 1));
  } else {
    f.template operator()<P, N>(Teams::of_rows(v.outer, v.length / P, P, N));
  }
}

/// A thread's packs of a row, as they lie in memory.
template <class T, int P, int N>
struct Kept {
  Pack<T, P> pack[N] = {};

  __device__ void load(const Team& team, const T* x, int64_t first) {
    team.each<N>(first, [&](int j, int64_t i) { pack[j] = load_pack<P>(x + team.offset<P>(i)); });
  }
  __device__ acc_of<T> operator()(int j, int k) const { return widen(pack[j].value[k]); }
};

}  // namespace weft::cuda
