// Exact softmax attention on tensor cores, forward: float16 and bfloat16.
//
//     m' = max(m, scores)    alpha = e^(m - m')    l = alpha l + sum e^(scores - m')    o = alpha o + e^(scores - m') v
//
// A block has 128 queries of a head. Every warp keeps the sums of its 16 or 32 rows in registers and walks with the others over tiles of
// keys, of which the next is on its way to shared memory while one is computed. Scores become weights in registers; they are the left side
// of the product with v as they stand. As on the CPU, m need not be the maximum, only near it: it moves when a score exceeds it by more
// than 8, so that most tiles rescale nothing.
//
// 2 N M (D + Dv) operations (half when causal). Bound by tensor cores, then by shared memory: with 32 rows a warp, every fragment of k and
// v feeds four products.
//
// T. Dao: FlashAttention-2 (ICLR 2024).
#include "weft/attention/cuda/dot_product_mma.h"
#include "weft/attention/cuda/mma_tile.cuh"

namespace weft::cuda {
namespace {

/// Tiles, by the number of columns that q, k and v are padded to. Blocks are made so that two of them fill a multiprocessor's registers.
template <int Width, bool edited>
struct ForwardTile {
  static constexpr int warps = Width == 256 ? 8 : 4, threads = lanes_per_warp * warps;
  static constexpr int row_blocks = Width == 256 ? 1 : 2;  // of 16 rows, to a warp
  static constexpr int queries = 16 * row_blocks * warps;
  static constexpr int keys = Width == 256 ? 32 : 64 * 128 / Width / (edited ? 2 : 1);
  static constexpr int blocks = Width == 256 ? 1 : 2;  // to a multiprocessor
  using Rows = Swizzled<Width>;
  static constexpr int q_bytes = Rows::bytes(queries), stage_bytes = 2 * Rows::bytes(keys);
  static constexpr int shared_bytes = q_bytes + 2 * stage_bytes + tile_alignment;
};

constexpr float max_excess = 8;  // a row's m may be this far below its maximum, in powers of two: float16 weights reach 2^8

/// The running softmax of the rows g and g + 8 of R blocks: scores become weights; m, l and o follow. `unit`: scores of 1 / unit halve
/// weights. l is summed over lanes at the end only.
template <bool edited, int R, int K, int C>
__device__ inline void softmax_rows(WarpSums<R, K>& s, float (&m)[R][2], float (&l)[R][2], WarpSums<R, C>& o, float unit) {
  float top[R][2];
  bool moves = false;
  WEFT_UNROLL
  for (int r = 0; r < R; ++r) {
    WEFT_UNROLL
    for (int half = 0; half < 2; ++half) {
      float x = std::fmax(s[r][0][2 * half], s[r][0][2 * half + 1]);  // NaN makes NaN of the sums, not of the maximum
      WEFT_UNROLL
      for (int c = 1; c < K; ++c) x = std::fmax(x, std::fmax(s[r][c][2 * half], s[r][c][2 * half + 1]));
      x = std::fmax(x, __shfl_xor_sync(all_lanes, x, 1));
      x = std::fmax(x, __shfl_xor_sync(all_lanes, x, 2));
      top[r][half] = x;
      moves = moves || (x - m[r][half]) * unit > max_excess;
    }
  }
  if (__any_sync(all_lanes, moves) != 0) {
    WEFT_UNROLL
    for (int r = 0; r < R; ++r) {
      WEFT_UNROLL
      for (int half = 0; half < 2; ++half) {
        if (!((top[r][half] - m[r][half]) * unit > max_excess)) continue;
        const float alpha = exp2_fast((m[r][half] - top[r][half]) * unit);
        m[r][half] = top[r][half];
        l[r][half] *= alpha;
        WEFT_UNROLL
        for (int c = 0; c < C; ++c) {
          o[r][c][2 * half] *= alpha;
          o[r][c][2 * half + 1] *= alpha;
        }
      }
    }
  }
  WEFT_UNROLL
  for (int r = 0; r < R; ++r) {
    WEFT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float base = m[r][half] == hidden_score ? 0.0F : m[r][half], shift = -base * unit;
      float sum = 0;
      WEFT_UNROLL
      for (int c = 0; c < K; ++c) {
        WEFT_UNROLL
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          // Edited scores may lie near the end of float32, by a bias that stands for -infinity.
          s[r][c][e] = exp2_fast(edited ? (s[r][c][e] - base) * unit : std::fma(s[r][c][e], unit, shift));
          sum += s[r][c][e];
        }
      }
      l[r][half] += sum;
    }
  }
}

template <class T, int Width, bool edited>
__global__ void __launch_bounds__(ForwardTile<Width, edited>::threads, ForwardTile<Width, edited>::blocks)
    forward_mma_kernel(RowArray<T> out, float* lse, Problem<T> p, int D, int Dv) {
  using S = ForwardTile<Width, edited>;
  using Rows = typename S::Rows;
  constexpr int R = S::row_blocks, K = S::keys / 8, C = Width / 8;
  WEFT_DYNAMIC_SHARED(unsigned char, memory);
  unsigned char* const tiles = aligned_tiles(memory);
  const SharedAddress q_tile = shared_address(tiles), stages = q_tile + S::q_bytes;

  const int blocks = (p.N + S::queries - 1) / S::queries;
  const int head = static_cast<int>(blockIdx.x) / blocks, b = head / p.H, h = head % p.H;
  const int i0 = (blocks - 1 - static_cast<int>(blockIdx.x) % blocks) * S::queries;  // the last ones have most work, with causality
  const int keys = p.keys_of(b), kv = p.kv_head(h), row0 = i0 + 16 * R * warp_of_block();
  const Span seen = p.keys_seen(i0, i0 + S::queries, keys);
  const int begin = seen.first / S::keys * S::keys;
  const int k_stride = static_cast<int>(p.k.row), v_stride = static_cast<int>(p.v.row), q_stride = static_cast<int>(p.q.row);
  TileCopier<T, Width, S::keys, S::threads> next_k(p.k.at(b, kv, 0), k_stride, begin, keys, D),
      next_v(p.v.at(b, kv, 0), v_stride, begin, keys, Dv);
  const auto copy_next = [&](SharedAddress stage) {
    next_k.copy_next(stage, k_stride);
    next_v.copy_next(stage + Rows::bytes(S::keys), v_stride);
    commit_copies();
  };

  const float unit = edited ? log2_e : p.scale * log2_e;
  float m[R][2], l[R][2];
  WarpSums<R, C> o;
  WEFT_UNROLL
  for (int r = 0; r < R; ++r) m[r][0] = m[r][1] = hidden_score, l[r][0] = l[r][1] = 0;
  for_each_sum<R, C>([&](int r, int c, int e) { o[r][c][e] = 0; });

  if (begin < seen.end) {
    TileCopier<T, Width, S::queries, S::threads>(p.q.at(b, h, 0), q_stride, i0, p.N, D).copy_next(q_tile, q_stride);
    copy_next(stages);
  }
  const SharedAddress lane = Rows::lane_offset(), columns_lane = Rows::columns_lane_offset();
  const SharedAddress q_rows = q_tile + static_cast<SharedAddress>(Rows::bytes(row0 - i0)) + lane;
  SharedAddress stage = stages, other = stages + S::stage_bytes;
  for (int j0 = begin; j0 < seen.end; j0 += S::keys) {
    wait_copies<0>();
    __syncthreads();  // this tile is complete, and nobody reads the one before any more
    if (j0 + S::keys < seen.end) copy_next(other);
    const ScorePlace at{b, h, row0, j0, keys};
    if (!none_visible<false, R, K>(p, at)) {
      WarpSums<R, K> s;
      multiply_rows<T, Width>(s, q_rows, stage + columns_lane);
      edit_scores<edited, false>(p, at, s);
      softmax_rows<edited>(s, m, l, o, unit);
      if constexpr (edited) for_each_multiplier<false, R, K>(p, at, 1, [&](int r, int c, int e, float x) { s[r][c][e] *= x; });
      add_weighted_rows<T, Width>(o, s, stage + Rows::bytes(S::keys) + lane);
    }
    const SharedAddress next = other;
    other = stage;
    stage = next;
  }

  float factor[R][2];
  WEFT_UNROLL
  for (int r = 0; r < R; ++r) {
    WEFT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float sum = warp_reduce(l[r][half], Add(), 4);
      const bool blind = sum == 0;  // no visible key: a zero row, and weights that vanish when they are recomputed
      factor[r][half] = blind ? 0.0F : (p.draws ? p.keep_scale : 1.0F) / sum;
      const int i = row0 + 16 * r + 8 * half + group_of_lane();
      if (column_of_lane() == 0 && i < p.N) {
        const float top = edited ? m[r][half] : m[r][half] * p.scale;
        lse[(static_cast<int64_t>(b) * p.H + h) * p.N + i] = blind ? -hidden_score : top + std::log(sum);
      }
    }
  }
  // Every warp reuses the rows of q that only it has read.
  store_rows<Width, R>(out.at(b, h, 0), out.row, row0, p.N, p.Dv, o, tiles + Rows::bytes(row0 - i0),
                       [&](int r, int half) { return factor[r][half]; });
}

template <class T, int Width, bool edited>
void forward(const RowArray<T>& out, float* lse, const Problem<T>& p, int D, int Dv) {
  using S = ForwardTile<Width, edited>;
  static_assert(S::shared_bytes <= mma_shared_bytes);
  launch(forward_mma_kernel<T, Width, edited>, Grid(int64_t{p.B} * p.H * ceil_div(p.N, S::queries)), S::threads, S::shared_bytes, out, lse,
         p, D, Dv);
}

template <class T>
void forward(Tensor& o, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionScope& scope) {
  Problem<T> p = make_problem<T>(q, k, v, scope);
  const CopyableRows<T> q_rows(q, scope.layout), k_rows(k, scope.layout), v_rows(v, scope.layout);
  p.q = q_rows.rows, p.k = k_rows.rows, p.v = v_rows.rows;
  const RowArray<T> out = row_array<T>(o, scope.layout);
  const bool edited = p.mask || p.bias || p.multiplier || p.draws || !(p.scale > 0);
  with_width(p, edited, [&]<int Width, bool edits>() { forward<T, Width, edits>(out, lse.data<float>(), p, q_rows.width, v_rows.width); });
}

__global__ void pad_rows_kernel(uint16_t* y, const uint16_t* x, int64_t elements, int padded, int width) {
  for (int64_t i = grid_start(); i < elements; i += grid_stride()) {
    const int64_t row = i / padded, column = i % padded;
    y[i] = column < width ? x[row * width + column] : uint16_t{0};
  }
}

}  // namespace

void pad_rows(Tensor& y, const Tensor& x) {
  launch(pad_rows_kernel, grid_over(y.numel()), block_threads, 0, static_cast<uint16_t*>(y.raw()), static_cast<const uint16_t*>(x.raw()),
         y.numel(), static_cast<int>(y.shape().back(0)), static_cast<int>(x.shape().back(0)));
}

bool has_mma(const Tensor& q, const Tensor& v) {
  // Rows of more than 128 elements need more shared memory than GPUs for graphics have: there tiles on CUDA cores take them.
  const int64_t widest = context().shared_bytes >= mma_shared_bytes ? 256 : 128;
  const int64_t D = q.size(3), Dv = v.size(3);
  return (q.dtype() == DType::float16 || q.dtype() == DType::bfloat16) && D >= 1 && Dv >= 1 && D <= widest && Dv <= widest;
}

void dot_product_mma(Tensor& o, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionScope& scope) {
  if (q.dtype() == DType::float16) {
    forward<float16>(o, lse, q, k, v, scope);
  } else {
    forward<bfloat16>(o, lse, q, k, v, scope);
  }
}

}  // namespace weft::cuda
