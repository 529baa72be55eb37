// Exact softmax attention on CUDA: where it begins. Up to a few queries a head are dot_product_few.cu's (generation); half types are
// dot_product_mma.cu's, on tensor cores; what is left is this file's.
//
// Forward: tiles of 64 queries and 64 keys, running softmax, nothing of size N x M.
//
//     m' = max(m, scores)    alpha = e^(m - m')    l = alpha l + sum e^(scores - m')    sums = alpha sums + e^(scores - m') v
//
// A block has 64 queries of a head and walks over the keys that they see. 2 N M (D + Dv) operations (half when causal); q, o once, k and v
// once for every 64 queries.
#include "weft/attention/cuda/dot_product_few.h"
#include "weft/attention/cuda/dot_product_mma.h"
#include "weft/attention/cuda/tile.cuh"

namespace weft::cuda {
namespace {

/// C: chunks of columns of v that a block holds; the slabs of wider ones are blocks of their own.
template <class T, int C>
__global__ void __launch_bounds__(Tile<acc_of<T>>::threads, sizeof(acc_of<T>) == 4 && C == 1 ? 3 : 1)
    forward_kernel(RowArray<T> o, acc_of<T>* lse, Problem<T> p, int slabs) {
  using A = acc_of<T>;
  using S = Tile<A>;
  constexpr A infinity = std::numeric_limits<A>::infinity();
  WEFT_DYNAMIC_SHARED(A, shared);
  A *const qs = shared, *const kvs = qs + S::chunk, *const weights = kvs + S::chunk;

  const int tiles = (p.N + S::side - 1) / S::side;
  const Job job(p.H, slabs, tiles);
  const int b = job.b, h = job.h, kv = p.kv_head(h), keys = p.keys_of(b), column = job.slab * C * S::width;
  const int i0 = (tiles - 1 - job.tile) * S::side;  // the last ones have most work, with causality
  const Span seen = p.keys_seen(i0, i0 + S::side, keys);
  Operand<T, Side::rows> q(p.q, b, h, p.D, {0, p.N}, p.scale);
  Operand<T, Side::columns> k(p.k, b, kv, p.D, seen), v(p.v, b, kv, p.Dv, seen);
  q.first = i0;
  if (q.stays()) load(qs, q);

  A m[S::rows], l[S::rows];
  Sums<A, C> sums = {};
  WEFT_UNROLL
  for (int r = 0; r < S::rows; ++r) m[r] = -infinity, l[r] = 0;
  for (int j0 = seen.first / 4 * 4; j0 < seen.end; j0 += S::side) {  // blocks of the dropout stream are of 4
    k.first = v.first = j0;
    Scores<A> s;
    products(s, q, qs, k, kvs);
    edit_scores<Side::rows>(p, b, h, i0, j0, keys, s, weights);
    WEFT_UNROLL
    for (int r = 0; r < S::rows; ++r) {
      A top = m[r];
      WEFT_UNROLL
      for (int c = 0; c < S::columns; ++c) top = std::fmax(top, s[r][c]);
      top = warp_reduce(top, Higher(), S::across);
      const A base = top == -infinity ? A(0) : top, alpha = std::exp(m[r] - base);
      m[r] = top;
      l[r] *= alpha;
      WEFT_UNROLL
      for (int c = 0; c < S::columns; ++c) {
        s[r][c] = std::exp(s[r][c] - base);
        l[r] += s[r][c];
      }
      WEFT_UNROLL
      for (int chunk = 0; chunk < C; ++chunk) {
        WEFT_UNROLL
        for (int e = 0; e < S::pack; ++e) sums[chunk][r][e] *= alpha;
      }
    }
    put_multipliers<Side::rows>(weights, p, b, h, i0, j0);
    multiply(s, weights, p.drops());
    put_weights(weights, s);
    __syncwarp();
    accumulate<C>(sums, weights, v, kvs, column, false);
  }

  A inverse[S::rows];
  WEFT_UNROLL
  for (int r = 0; r < S::rows; ++r) {
    const A sum = warp_reduce(l[r], Add(), S::across);
    const bool blind = sum == 0;  // no visible key: a zero row, and weights that vanish when they are recomputed
    inverse[r] = blind ? A(0) : 1 / sum;
    const int i = i0 + S::row(r);
    if (job.slab == 0 && S::x() == 0 && i < p.N) lse[p.row_index(b, h, i)] = blind ? infinity : m[r] + std::log(sum);
  }
  store_sums<C>(o, b, h, i0, p.N, column, p.Dv, sums, inverse);
}

template <class T, int C>
void forward(Tensor& o, Tensor& lse, const Problem<T>& p, AttentionLayout layout) {
  using A = acc_of<T>;
  using S = Tile<A>;
  const int64_t slabs = std::max<int64_t>(1, ceil_div(p.Dv, C * S::width)), heads = int64_t{p.B} * p.H;
  launch(forward_kernel<T, C>, Grid(heads * slabs * ceil_div(p.N, S::side)), S::threads, (2 * S::chunk + S::weights) * sizeof(A),
         row_array<T>(o, layout), lse.data<A>(), p, static_cast<int>(slabs));
}

}  // namespace

void dot_product(Tensor& o, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionScope& scope) {
  if (has_few_queries(q, scope.layout)) return dot_product_few(o, lse, q, k, v, scope);
  if (has_mma(q, v)) return dot_product_mma(o, lse, q, k, v, scope);
  dispatch_compute(q.dtype(), "dot_product", [&]<class T>() {
    constexpr int chunks64 = 64 / Tile<acc_of<T>>::width;
    const Problem<T> p = make_problem<T>(q, k, v, scope);
    if (p.Dv <= 64) {
      forward<T, chunks64>(o, lse, p, scope.layout);
    } else {
      forward<T, 2 * chunks64>(o, lse, p, scope.layout);
    }
  });
}

}  // namespace weft::cuda
