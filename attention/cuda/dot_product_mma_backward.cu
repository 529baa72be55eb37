// Exact softmax attention on tensor cores, backward: float16 and bfloat16.
//
//     P = e^(scores - lse)    dP = dout v^T    dS = P * ((dP + dweights) * D - delta)        (D: dropout multipliers)
//     dv += (P * D)^T dout    dk += dS^T q     dq += dS k     dbias += dS
//
// Three kernels, each of which recomputes P and dP and keeps the sums that it owns in registers, so that every sum has one order and
// nothing is added to memory: dk and dv by blocks of keys, dq by blocks of queries, dbias by tiles of it. The first holds its scores
// transposed, keys as rows: then all of them multiply what they have in registers as it stands.
//
// N M (8 D + 6 Dv) operations without dbias (half when causal), against N M (6 D + 4 Dv) of one pass that adds dq to memory with atomics or
// in turns: these kernels wait for nobody.
#include "weft/attention/cuda/dot_product_mma.h"
#include "weft/attention/cuda/mma_tile.cuh"

namespace weft::cuda {
namespace {

/// What a row of scores needs besides its operands. A query that sees no key, or is none, has lse = infinity: its P is 0.
struct alignas(8) RowStatistics {
  float lse, delta;  // lse in powers of two, unless scores are edited
};
constexpr int statistics_padding = 64;

template <class T>
struct Backward {
  Problem<T> p;
  RowArray<const T> dout = {};
  PairArray<const T> dweights = {};
  const RowStatistics* statistics = nullptr;  // [B, H, padded]
  int padded = 0;                             // queries, in multiples of statistics_padding
  int D = 0, Dv = 0;                          // of the rows that are copied

  __device__ const RowStatistics* statistics_of(int b, int h) const { return statistics + (static_cast<int64_t>(b) * p.H + h) * padded; }
};

__global__ void statistics_kernel(RowStatistics* y, const float* lse, const float* delta, int64_t rows, int padded, int N, float factor) {
  for (int64_t n = grid_start(); n < rows * padded; n += grid_stride()) {
    const int64_t row = n / padded, i = n % padded;
    y[n] = i < N ? RowStatistics{lse[row * N + i] * factor, delta[row * N + i]} : RowStatistics{-hidden_score, 0};
  }
}

// ---- what the kernels have in common: scores and dP to weights and dS ------------------------------------------------------------------

/// e^(score - lse) of scores (edited) or of products with `unit` = scale log2(e) (not edited).
template <bool edited>
__device__ inline float weight_of(float s, float lse, float unit) {
  return exp2_fast(edited ? (s - lse) * log2_e : std::fma(s, unit, -lse));
}

/// In place: s from weights to weights times dropout multipliers, dp to dS. delta_of(r, c, e): of the query.
template <bool edited, bool transposed, int R, int C, class T, class F>
__device__ inline void differentiate(const Backward<T>& x, const ScorePlace& at, WarpSums<R, C>& s, WarpSums<R, C>& dp, F delta_of) {
  const auto once = [&](int r, int c, int e, float m) {
    dp[r][c][e] = s[r][c][e] * (dp[r][c][e] * m - delta_of(r, c, e));
    s[r][c][e] *= m;
  };
  if constexpr (edited) {
    if (x.dweights) add_pairs<transposed>(x.p, at, x.dweights, dp);
    if (x.p.drops()) return for_each_multiplier<transposed, R, C>(x.p, at, x.p.keep_scale, once);
  }
  for_each_sum<R, C>([&](int r, int c, int e) { once(r, c, e, 1); });
}

// ---- dk and dv: blocks of keys ---------------------------------------------------------------------------------------------------------

template <int Width>
struct KeyTile {
  static constexpr int warps = 4, threads = lanes_per_warp * warps;
  static constexpr int row_blocks = Width == 64 ? 2 : 1;
  static constexpr int keys = 16 * row_blocks * warps, queries = Width == 128 ? 64 : 32;
  static constexpr int blocks = Width == 256 ? 1 : 2;  // to a multiprocessor
  using Rows = Swizzled<Width>;
  static constexpr int statistics_bytes = queries * static_cast<int>(sizeof(RowStatistics));
  static constexpr int stage_bytes = round_up(2 * Rows::bytes(queries) + statistics_bytes, tile_alignment);
  static constexpr int shared_bytes = 2 * Rows::bytes(keys) + 2 * stage_bytes + tile_alignment;
};

/// `wants_dk`, `wants_dv`: registers hold both, except of the widest rows.
template <class T, int Width, bool edited, bool wants_dk, bool wants_dv>
__global__ void __launch_bounds__(KeyTile<Width>::threads, KeyTile<Width>::blocks)
    backward_keys_kernel(RowArray<T> dk_out, RowArray<T> dv_out, Backward<T> x) {
  using S = KeyTile<Width>;
  using Rows = typename S::Rows;
  constexpr int R = S::row_blocks, Q = S::queries / 8, C = Width / 8;
  WEFT_DYNAMIC_SHARED(unsigned char, memory);
  unsigned char* const tiles = aligned_tiles(memory);
  const SharedAddress k_tile = shared_address(tiles), v_tile = k_tile + Rows::bytes(S::keys);
  unsigned char* stage = tiles + 2 * Rows::bytes(S::keys);
  unsigned char* other = stage + S::stage_bytes;

  const Problem<T>& p = x.p;
  const int blocks = (p.M + S::keys - 1) / S::keys;  // the first ones have most work, with causality
  const int head = static_cast<int>(blockIdx.x) / blocks, b = head / p.Hkv, kv = head % p.Hkv, group = p.H / p.Hkv;
  const int j0 = static_cast<int>(blockIdx.x) % blocks * S::keys, keys = p.keys_of(b), row0 = j0 + 16 * R * warp_of_block();
  const Span seeing = p.queries_seeing(j0, j0 + S::keys, keys);
  const int begin = seeing.first / S::queries * S::queries;

  const int q_stride = static_cast<int>(p.q.row), dout_stride = static_cast<int>(x.dout.row);
  const auto copy_queries = [&](int h, int i0, unsigned char* to) {
    const SharedAddress tile = shared_address(to);
    TileCopier<T, Width, S::queries, S::threads>(p.q.at(b, h, 0), q_stride, i0, p.N, x.D).copy_next(tile, q_stride);
    TileCopier<T, Width, S::queries, S::threads>(x.dout.at(b, h, 0), dout_stride, i0, p.N, x.Dv)
        .copy_next(tile + Rows::bytes(S::queries), dout_stride);
    const int part = static_cast<int>(threadIdx.x);
    if (part < S::statistics_bytes / 16)
      copy_async(tile + static_cast<SharedAddress>(2 * Rows::bytes(S::queries) + 16 * part), x.statistics_of(b, h) + i0 + 2 * part);
    commit_copies();
  };

  WarpSums<R, C> dk, dv;
  for_each_sum<R, C>([&](int r, int c, int e) { dk[r][c][e] = dv[r][c][e] = 0; });
  const int first_head = kv * group, end_head = begin < seeing.end ? first_head + group : first_head;
  if (first_head < end_head) {
    const int k_stride = static_cast<int>(p.k.row), v_stride = static_cast<int>(p.v.row);
    TileCopier<T, Width, S::keys, S::threads>(p.k.at(b, kv, 0), k_stride, j0, keys, x.D).copy_next(k_tile, k_stride);
    if (wants_dk) TileCopier<T, Width, S::keys, S::threads>(p.v.at(b, kv, 0), v_stride, j0, keys, x.Dv).copy_next(v_tile, v_stride);
    copy_queries(first_head, begin, stage);
  }
  const SharedAddress lane = Rows::lane_offset(), columns_lane = Rows::columns_lane_offset();
  const SharedAddress own_rows = static_cast<SharedAddress>(Rows::bytes(row0 - j0)) + lane;
  const float unit = p.scale * log2_e;
  for (int h = first_head; h < end_head; ++h) {
    for (int i0 = begin; i0 < seeing.end; i0 += S::queries) {
      wait_copies<0>();
      __syncthreads();  // this tile is complete, and nobody reads the one before any more
      const bool last = i0 + S::queries >= seeing.end;
      if (!last || h + 1 < end_head) copy_queries(last ? h + 1 : h, last ? begin : i0 + S::queries, other);
      const ScorePlace at{b, h, row0, i0, keys};
      if (!none_visible<true, R, Q>(p, at)) {
        const SharedAddress q_tile = shared_address(stage), dout_tile = q_tile + Rows::bytes(S::queries);
        const float* statistics = reinterpret_cast<const float*>(stage + 2 * Rows::bytes(S::queries)) + 2 * column_of_lane();
        WarpSums<R, Q> s;
        multiply_rows<T, Width>(s, k_tile + own_rows, q_tile + columns_lane);
        edit_scores<edited, true>(p, at, s);
        WEFT_UNROLL
        for (int c = 0; c < Q; ++c) {
          const Pack<float, 4> two = load_pack<4>(statistics + 16 * c);
          WEFT_UNROLL
          for (int r = 0; r < R; ++r) {
            WEFT_UNROLL
            for (int e = 0; e < 4; ++e) s[r][c][e] = weight_of<edited>(s[r][c][e], two.value[e % 2 * 2], unit);
          }
        }
        if constexpr (wants_dk) {
          WarpSums<R, Q> dp;
          multiply_rows<T, Width>(dp, v_tile + own_rows, dout_tile + columns_lane);
          differentiate<edited, true>(x, at, s, dp, [&](int, int c, int e) { return statistics[16 * c + e % 2 * 2 + 1]; });
          if (wants_dv) add_weighted_rows<T, Width>(dv, s, dout_tile + lane);
          add_weighted_rows<T, Width>(dk, dp, q_tile + lane);
        } else {
          if constexpr (edited)
            for_each_multiplier<true, R, Q>(p, at, p.keep_scale, [&](int r, int c, int e, float m) { s[r][c][e] *= m; });
          add_weighted_rows<T, Width>(dv, s, dout_tile + lane);
        }
      }
      unsigned char* const next = other;
      other = stage;
      stage = next;
    }
  }
  // Every warp reuses the rows of k and v that only it has read.
  unsigned char* const own = tiles + Rows::bytes(row0 - j0);
  if (wants_dk) {
    const float scale = p.scale;
    store_rows<Width, R>(dk_out.at(b, kv, 0), dk_out.row, row0, p.M, p.D, dk, own, [&](int, int) { return scale; });
  }
  if (wants_dv) {
    store_rows<Width, R>(dv_out.at(b, kv, 0), dv_out.row, row0, p.M, p.Dv, dv, own + Rows::bytes(S::keys), [](int, int) { return 1.0F; });
  }
}

// ---- dq: blocks of queries -------------------------------------------------------------------------------------------------------------

template <int Width>
struct QueryTile {
  static constexpr int warps = 4, threads = lanes_per_warp * warps;
  static constexpr int row_blocks = Width == 256 ? 1 : 2;
  static constexpr int queries = 16 * row_blocks * warps, keys = Width == 64 ? 64 : 32;
  static constexpr int blocks = Width == 256 ? 1 : 2;  // to a multiprocessor
  using Rows = Swizzled<Width>;
  static constexpr int stage_bytes = 2 * Rows::bytes(keys);
  static constexpr int shared_bytes = 2 * Rows::bytes(queries) + 2 * stage_bytes + tile_alignment;
};

/// lse and delta of the rows g and g + 8 of R blocks, from row `row` on.
template <int R>
struct LaneStatistics {
  RowStatistics of[R][2];
  __device__ void load(const RowStatistics* rows, int row, int padded) {
    WEFT_UNROLL
    for (int r = 0; r < R; ++r) {
      WEFT_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int i = row + 16 * r + 8 * half + group_of_lane();
        of[r][half] = i < padded ? rows[i] : RowStatistics{-hidden_score, 0};
      }
    }
  }
};

/// dscores = dS of 16 R queries of this warp with 8 K keys.
template <class T, int Width, bool edited, int R, int K>
__device__ inline void query_gradients(const Backward<T>& x, const ScorePlace& at, const LaneStatistics<R>& statistics, SharedAddress q,
                                       SharedAddress dout, SharedAddress k, SharedAddress v, WarpSums<R, K>& dscores) {
  const float unit = x.p.scale * log2_e;
  WarpSums<R, K> s;
  multiply_rows<T, Width>(s, q, k);
  edit_scores<edited, false>(x.p, at, s);
  for_each_sum<R, K>([&](int r, int c, int e) { s[r][c][e] = weight_of<edited>(s[r][c][e], statistics.of[r][e / 2].lse, unit); });
  multiply_rows<T, Width>(dscores, dout, v);
  differentiate<edited, false>(x, at, s, dscores, [&](int r, int, int e) { return statistics.of[r][e / 2].delta; });
}

template <class T, int Width, bool edited>
__global__ void __launch_bounds__(QueryTile<Width>::threads, QueryTile<Width>::blocks)
    backward_queries_kernel(RowArray<T> dq_out, Backward<T> x) {
  using S = QueryTile<Width>;
  using Rows = typename S::Rows;
  constexpr int R = S::row_blocks, K = S::keys / 8, C = Width / 8;
  WEFT_DYNAMIC_SHARED(unsigned char, memory);
  unsigned char* const tiles = aligned_tiles(memory);
  const SharedAddress q_tile = shared_address(tiles), dout_tile = q_tile + Rows::bytes(S::queries);
  SharedAddress stage = dout_tile + Rows::bytes(S::queries), other = stage + S::stage_bytes;

  const Problem<T>& p = x.p;
  const int blocks = (p.N + S::queries - 1) / S::queries;
  const int head = static_cast<int>(blockIdx.x) / blocks, b = head / p.H, h = head % p.H;
  const int i0 = (blocks - 1 - static_cast<int>(blockIdx.x) % blocks) * S::queries;  // the last ones have most work, with causality
  const int keys = p.keys_of(b), kv = p.kv_head(h), row0 = i0 + 16 * R * warp_of_block();
  const Span seen = p.keys_seen(i0, i0 + S::queries, keys);
  const int begin = seen.first / S::keys * S::keys;
  const int k_stride = static_cast<int>(p.k.row), v_stride = static_cast<int>(p.v.row);
  TileCopier<T, Width, S::keys, S::threads> next_k(p.k.at(b, kv, 0), k_stride, begin, keys, x.D);
  TileCopier<T, Width, S::keys, S::threads> next_v(p.v.at(b, kv, 0), v_stride, begin, keys, x.Dv);
  const auto copy_next = [&](SharedAddress to) {
    next_k.copy_next(to, k_stride);
    next_v.copy_next(to + Rows::bytes(S::keys), v_stride);
    commit_copies();
  };

  WarpSums<R, C> dq;
  for_each_sum<R, C>([&](int r, int c, int e) { dq[r][c][e] = 0; });
  if (begin < seen.end) {
    const int q_stride = static_cast<int>(p.q.row), dout_stride = static_cast<int>(x.dout.row);
    TileCopier<T, Width, S::queries, S::threads>(p.q.at(b, h, 0), q_stride, i0, p.N, x.D).copy_next(q_tile, q_stride);
    TileCopier<T, Width, S::queries, S::threads>(x.dout.at(b, h, 0), dout_stride, i0, p.N, x.Dv).copy_next(dout_tile, dout_stride);
    copy_next(stage);
  }
  LaneStatistics<R> statistics;
  statistics.load(x.statistics_of(b, h), row0, x.padded);
  const SharedAddress lane = Rows::lane_offset(), columns_lane = Rows::columns_lane_offset();
  const SharedAddress own_rows = static_cast<SharedAddress>(Rows::bytes(row0 - i0)) + lane;
  for (int j0 = begin; j0 < seen.end; j0 += S::keys) {
    wait_copies<0>();
    __syncthreads();  // this tile is complete, and nobody reads the one before any more
    if (j0 + S::keys < seen.end) copy_next(other);
    const ScorePlace at{b, h, row0, j0, keys};
    if (!none_visible<false, R, K>(p, at)) {
      const SharedAddress k_tile = stage + columns_lane;
      WarpSums<R, K> dscores;
      query_gradients<T, Width, edited>(x, at, statistics, q_tile + own_rows, dout_tile + own_rows, k_tile, k_tile + Rows::bytes(S::keys),
                                        dscores);
      add_weighted_rows<T, Width>(dq, dscores, stage + lane);
    }
    const SharedAddress next = other;
    other = stage;
    stage = next;
  }
  const float scale = p.scale;  // every warp reuses the rows of q that only it has read
  store_rows<Width, R>(dq_out.at(b, h, 0), dq_out.row, row0, p.N, p.D, dq, tiles + Rows::bytes(row0 - i0), [&](int, int) { return scale; });
}

// ---- dbias: tiles of it, over everything that it is broadcast to -----------------------------------------------------------------------

template <int Width>
struct BiasTile {
  static constexpr int warps = 4, threads = lanes_per_warp * warps, queries = 16 * warps, keys = 64;
  using Rows = Swizzled<Width>;
  static constexpr int shared_bytes = 2 * Rows::bytes(queries) + 2 * Rows::bytes(keys) + tile_alignment;
};

template <class T, int Width>
__global__ void __launch_bounds__(BiasTile<Width>::threads) backward_bias_kernel(PairArray<T> dbias, Backward<T> x) {
  using S = BiasTile<Width>;
  using Rows = typename S::Rows;
  constexpr int K = S::keys / 8;
  WEFT_DYNAMIC_SHARED(unsigned char, memory);
  WEFT_SHARED(float, rows_of_warps, S::warps* S::keys);
  const SharedAddress q_tile = shared_address(aligned_tiles(memory)), dout_tile = q_tile + Rows::bytes(S::queries);
  const SharedAddress k_tile = dout_tile + Rows::bytes(S::queries), v_tile = k_tile + Rows::bytes(S::keys);

  // Batches, heads and rows with a stride are the grid's, the others this block's.
  const Problem<T>& p = x.p;
  int rest = static_cast<int>(blockIdx.x);
  const auto take = [&](bool own, int count) {
    if (own) return Span{0, count};
    const int n = rest % count;
    rest /= count;
    return Span{n, n + 1};
  };
  const Span tile = take(false, (p.M + S::keys - 1) / S::keys), rows = take(dbias.row == 0, (p.N + S::queries - 1) / S::queries);
  const Span heads = take(dbias.head == 0, p.H), batches = take(dbias.batch == 0, p.B);
  const int j0 = tile.first * S::keys;
  const SharedAddress lane = Rows::columns_lane_offset();
  const SharedAddress own_rows = static_cast<SharedAddress>(Rows::bytes(16 * warp_of_block())) + Rows::lane_offset();

  WarpSums<1, K> sums;
  for_each_sum<1, K>([&](int r, int c, int e) { sums[r][c][e] = 0; });
  for (int b = batches.first; b < batches.end; ++b) {
    const int keys = p.keys_of(b);
    for (int h = heads.first; h < heads.end; ++h) {
      for (int i0 = rows.first * S::queries; i0 < rows.end * S::queries; i0 += S::queries) {
        const Span seen = p.keys_seen(i0, i0 + S::queries, keys);
        if (seen.first >= j0 + S::keys || seen.end <= j0) continue;
        const auto copy = [&](const RowArray<const T>& from, int from_head, int first, int end, int width, SharedAddress to) {
          const int stride = static_cast<int>(from.row);
          static_assert(S::queries == S::keys);
          TileCopier<T, Width, S::keys, S::threads>(from.at(b, from_head, 0), stride, first, end, width).copy_next(to, stride);
        };
        __syncthreads();  // nobody reads the tiles before any more
        copy(p.q, h, i0, p.N, x.D, q_tile);
        copy(x.dout, h, i0, p.N, x.Dv, dout_tile);
        copy(p.k, p.kv_head(h), j0, keys, x.D, k_tile);
        copy(p.v, p.kv_head(h), j0, keys, x.Dv, v_tile);
        commit_copies();
        const ScorePlace at{b, h, i0 + 16 * warp_of_block(), j0, keys};
        LaneStatistics<1> statistics;
        statistics.load(x.statistics_of(b, h), at.row, x.padded);
        wait_copies<0>();
        __syncthreads();
        if (none_visible<false, 1, K>(p, at)) continue;
        WarpSums<1, K> dscores;
        query_gradients<T, Width, true>(x, at, statistics, q_tile + own_rows, dout_tile + own_rows, k_tile + lane, v_tile + lane, dscores);
        for_each_sum<1, K>([&](int r, int c, int e) { sums[r][c][e] += dscores[r][c][e]; });
      }
    }
  }

  const int row = rows.first * S::queries + 16 * warp_of_block() + group_of_lane();
  if (dbias.row != 0) {
    for_each_sum<1, K>([&](int, int c, int e) {
      const int i = row + e / 2 * 8, j = j0 + 8 * c + column_of_lane() + e % 2;
      if (i < p.N && j < p.M) *dbias.at(batches.first, heads.first, i, j) = narrow<T>(sums[0][c][e]);
    });
    return;
  }
  WEFT_UNROLL
  for (int c = 0; c < K; ++c) {
    WEFT_UNROLL
    for (int e = 0; e < 2; ++e) {
      float sum = sums[0][c][e] + sums[0][c][e + 2];
      for (int step = 4; step < lanes_per_warp; step *= 2) sum += __shfl_xor_sync(all_lanes, sum, step);
      if (group_of_lane() == 0) rows_of_warps[warp_of_block() * S::keys + 8 * c + column_of_lane() + e] = sum;
    }
  }
  __syncthreads();
  const int column = static_cast<int>(threadIdx.x);
  if (column < S::keys && j0 + column < p.M) {
    float sum = 0;
    for (int w = 0; w < S::warps; ++w) sum += rows_of_warps[w * S::keys + column];
    *dbias.at(batches.first, heads.first, 0, j0 + column) = narrow<T>(sum);
  }
}

// ---- launches --------------------------------------------------------------------------------------------------------------------------

template <class T>
struct BackwardOutputs {
  RowArray<T> dq, dk, dv;
  PairArray<T> dbias;
};

template <class T, int Width, bool edited>
void backward(const BackwardOutputs<T>& out, const Backward<T>& x) {
  const Problem<T>& p = x.p;
  using K = KeyTile<Width>;
  static_assert(K::shared_bytes <= mma_shared_bytes);
  const Grid key_blocks(int64_t{p.B} * p.Hkv * ceil_div(p.M, K::keys));
  if constexpr (Width == 256) {
    launch(backward_keys_kernel<T, Width, edited, true, false>, key_blocks, K::threads, K::shared_bytes, out.dk, out.dv, x);
    launch(backward_keys_kernel<T, Width, edited, false, true>, key_blocks, K::threads, K::shared_bytes, out.dk, out.dv, x);
  } else {
    launch(backward_keys_kernel<T, Width, edited, true, true>, key_blocks, K::threads, K::shared_bytes, out.dk, out.dv, x);
  }
  using Q = QueryTile<Width>;
  static_assert(Q::shared_bytes <= mma_shared_bytes);
  launch(backward_queries_kernel<T, Width, edited>, Grid(int64_t{p.B} * p.H * ceil_div(p.N, Q::queries)), Q::threads, Q::shared_bytes,
         out.dq, x);
  if constexpr (edited) {
    if (!out.dbias) return;
    using S = BiasTile<Width>;
    static_assert(S::shared_bytes + 1024 <= mma_shared_bytes);  // and what it adds up in
    const int64_t slabs = int64_t{out.dbias.batch == 0 ? 1 : p.B} * (out.dbias.head == 0 ? 1 : p.H);
    const int64_t tiles = ceil_div(p.M, S::keys) * (out.dbias.row == 0 ? 1 : ceil_div(p.N, S::queries));
    launch(backward_bias_kernel<T, Width>, Grid(slabs * tiles), S::threads, S::shared_bytes, out.dbias, x);
  }
}

template <class T>
void backward(Tensor& dq, Tensor& dk, Tensor& dv, Tensor& dbias, const Tensor& dout, const Tensor& dweights, const Tensor& q,
              const Tensor& k, const Tensor& v, const Tensor& lse, const Tensor& delta, const AttentionScope& scope) {
  Backward<T> x{.p = make_problem<T>(q, k, v, scope)};
  Problem<T>& p = x.p;
  const CopyableRows<T> q_rows(q, scope.layout), k_rows(k, scope.layout), v_rows(v, scope.layout), dout_rows(dout, scope.layout);
  p.q = q_rows.rows, p.k = k_rows.rows, p.v = v_rows.rows, x.dout = dout_rows.rows;
  x.D = q_rows.width, x.Dv = v_rows.width;
  x.dweights = weights_array<const T>(dweights, scope, p.H, p.N, p.M);
  const bool edited = p.mask || p.bias || p.multiplier || p.draws || x.dweights || !(p.scale > 0);

  const int64_t rows = int64_t{p.B} * p.H;
  x.padded = static_cast<int>(round_up(p.N, statistics_padding));
  const Tensor statistics = empty({rows, x.padded, 2}, lse.options());
  launch(statistics_kernel, grid_over(rows * x.padded), block_threads, 0, static_cast<RowStatistics*>(statistics.raw()), lse.data<float>(),
         delta.data<float>(), rows, x.padded, p.N, edited ? 1.0F : log2_e);
  x.statistics = static_cast<const RowStatistics*>(statistics.raw());

  BackwardOutputs<T> out{row_array<T>(dq, scope.layout), row_array<T>(dk, scope.layout), row_array<T>(dv, scope.layout), {}};
  if (dbias.defined()) {
    // One that is the same for all keys shifts whole rows of scores, which changes no weight.
    const bool same_for_keys = dbias.rank() == 0 || dbias.shape().back(0) == 1;
    if (same_for_keys) fill(dbias, 0);
    if (!same_for_keys) out.dbias = pair_array<T>(dbias);
  }
  with_width(p, edited, [&]<int Width, bool edits>() { backward<T, Width, edits>(out, x); });
}

}  // namespace

void dot_product_mma_backward(Tensor& dq, Tensor& dk, Tensor& dv, Tensor& dbias, const Tensor& dout, const Tensor& dweights,
                              const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& lse, const Tensor& delta,
                              const AttentionScope& scope) {
  if (q.dtype() == DType::float16) {
    backward<float16>(dq, dk, dv, dbias, dout, dweights, q, k, v, lse, delta, scope);
  } else {
    backward<bfloat16>(dq, dk, dv, dbias, dout, dweights, q, k, v, lse, delta, scope);
  }
}

}  // namespace weft::cuda
