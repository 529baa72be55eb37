// Exact softmax attention, backward: tiles of 64 x 64 pairs, nothing of size N x M.
//
//     P = e^(scores - lse)    dP = dout v^T    dS = P * ((dP + dweights) * D - delta)        (D: dropout multipliers)
//     dv += (P * D)^T dout    dk += dS^T q     dq += dS k     dbias += dS
//
// One kernel has a block for every 64 keys of a key/value head: it walks over the queries that see them, head by head, and keeps dk and dv
// in registers. Another has a block for every 64 queries and keeps dq: it recomputes P and dS, which is 7 products in all in place of 5,
// but nobody waits for anybody, nothing is added to memory, and every sum has one order. A bias with a gradient takes a third: a block for
// every 64 x 64 elements of it, which walks over what the bias is repeated for.
#include "weft/attention/cuda/dot_product_mma.h"
#include "weft/attention/cuda/tile.cuh"

namespace weft::cuda {
namespace {

template <class T>
struct Given {
  const acc_of<T>*lse, *delta;  // [B, H, N]
  RowArray<const T> dout;
  PairArray<const T> dweights;
};

/// The thread's part of a tile, in place: products scale q . k become weights after dropout, products dout . v become gradients of scores.
template <Side queries, class T>
__device__ void differentiate(const Problem<T>& p, const Given<T>& given, int b, int h, int i0, int j0, int keys,
                              Scores<acc_of<T>>& weights, Scores<acc_of<T>>& dscores, acc_of<T>* scratch) {
  using A = acc_of<T>;
  using S = Tile<A>;
  edit_scores<queries>(p, b, h, i0, j0, keys, weights, scratch);
  if (given.dweights) {
    edit_each<queries>(dscores, i0, j0, scratch, [&](int i, int j, A& dweight) {
      if (p.in_window(i, j, keys)) dweight += widen(*given.dweights.at(b, h, i, j));
    });
  }
  put_multipliers<queries>(scratch, p, b, h, i0, j0);
  const bool drops = p.drops();
  constexpr int count = queries == Side::rows ? S::rows : S::columns;
  A lse[count], delta[count];
  WEFT_UNROLL
  for (int n = 0; n < count; ++n) {
    const int i = Pair<queries, A>(i0, j0, n, n).i;
    lse[n] = i < p.N ? given.lse[p.row_index(b, h, i)] : std::numeric_limits<A>::infinity();  // no query, no weight
    delta[n] = i < p.N ? given.delta[p.row_index(b, h, i)] : A(0);
  }
  WEFT_UNROLL
  for (int r = 0; r < S::rows; ++r) {
    WEFT_UNROLL
    for (int c = 0; c < S::columns; ++c) {
      const int n = queries == Side::rows ? r : c;
      const A weight = std::exp(weights[r][c] - lse[n]), multiplier = drops ? scratch[S::place(r, c)] : A(1);
      dscores[r][c] = weight * (dscores[r][c] * multiplier - delta[n]);
      weights[r][c] = weight * multiplier;
    }
  }
}

/// dk and dv of 64 keys. C: chunks of their columns that a block holds; the slabs of wider ones are blocks of their own.
template <class T, int C>
__global__ void __launch_bounds__(Tile<acc_of<T>>::threads)
    keys_kernel(RowArray<T> dk, RowArray<T> dv, Given<T> given, Problem<T> p, int slabs) {
  using A = acc_of<T>;
  using S = Tile<A>;
  WEFT_DYNAMIC_SHARED(A, shared);
  A *const ks = shared, *const vs = ks + S::chunk, *const ys = vs + S::chunk, *const tile = ys + S::chunk;

  const Job job(p.Hkv, slabs, (p.M + S::side - 1) / S::side);
  const int b = job.b, kv = job.h, keys = p.keys_of(b), j0 = job.tile * S::side, column = job.slab * C * S::width, group = p.H / p.Hkv;
  const Span seen = p.queries_seeing(j0, j0 + S::side, keys);
  Operand<T, Side::rows> k(p.k, b, kv, p.D, {0, keys}), v(p.v, b, kv, p.Dv, {0, keys});
  k.first = v.first = j0;
  if (!seen.empty() && k.stays()) load(ks, k);
  if (!seen.empty() && v.stays()) load(vs, v);

  Sums<A, C> dks = {}, dvs = {};
  for (int h = kv * group; h < (kv + 1) * group; ++h) {
    Operand<T, Side::columns> q(p.q, b, h, p.D, seen, p.scale), dout(given.dout, b, h, p.Dv, seen);
    for (int i0 = seen.first; i0 < seen.end; i0 += S::side) {
      q.first = dout.first = i0;
      Scores<A> weights, dscores;
      products(weights, k, ks, q, ys);
      products(dscores, v, vs, dout, ys);
      differentiate<Side::columns>(p, given, b, h, i0, j0, keys, weights, dscores, tile);
      put_weights(tile, weights);
      __syncwarp();
      accumulate<C>(dvs, tile, dout, ys, column, dout.stays());
      put_weights(tile, dscores);
      __syncwarp();
      accumulate<C>(dks, tile, q, ys, column, false);
    }
  }
  A factors[S::rows];
  WEFT_UNROLL
  for (int r = 0; r < S::rows; ++r) factors[r] = 1;  // q was times scale
  store_sums<C>(dk, b, kv, j0, p.M, column, p.D, dks, factors);
  store_sums<C>(dv, b, kv, j0, p.M, column, p.Dv, dvs, factors);
}

/// dq of 64 queries.
template <class T, int C>
__global__ void __launch_bounds__(Tile<acc_of<T>>::threads) queries_kernel(RowArray<T> dq, Given<T> given, Problem<T> p, int slabs) {
  using A = acc_of<T>;
  using S = Tile<A>;
  WEFT_DYNAMIC_SHARED(A, shared);
  A *const qs = shared, *const douts = qs + S::chunk, *const ys = douts + S::chunk, *const tile = ys + S::chunk;

  const int tiles = (p.N + S::side - 1) / S::side;
  const Job job(p.H, slabs, tiles);
  const int b = job.b, h = job.h, kv = p.kv_head(h), keys = p.keys_of(b), column = job.slab * C * S::width;
  const int i0 = (tiles - 1 - job.tile) * S::side;  // the last ones have most work, with causality
  const Span seen = p.keys_seen(i0, i0 + S::side, keys);
  Operand<T, Side::rows> q(p.q, b, h, p.D, {0, p.N}, p.scale), dout(given.dout, b, h, p.Dv, {0, p.N});
  Operand<T, Side::columns> k(p.k, b, kv, p.D, seen), v(p.v, b, kv, p.Dv, seen);
  q.first = dout.first = i0;
  if (!seen.empty() && q.stays()) load(qs, q);
  if (!seen.empty() && dout.stays()) load(douts, dout);

  Sums<A, C> dqs = {};
  for (int j0 = seen.first / 4 * 4; j0 < seen.end; j0 += S::side) {
    k.first = v.first = j0;
    Scores<A> weights, dscores;
    products(dscores, dout, douts, v, ys);
    products(weights, q, qs, k, ys);
    differentiate<Side::rows>(p, given, b, h, i0, j0, keys, weights, dscores, tile);
    put_weights(tile, dscores);
    __syncwarp();
    accumulate<C>(dqs, tile, k, ys, column, k.stays());
  }
  A factors[S::rows];
  WEFT_UNROLL
  for (int r = 0; r < S::rows; ++r) factors[r] = p.scale;
  store_sums<C>(dq, b, h, i0, p.N, column, p.D, dqs, factors);
}

/// The axes that a bias has; it is repeated over the others. Never over keys: see below.
struct BiasAxes {
  bool batch, head, row;
};

template <class T>
__global__ void __launch_bounds__(Tile<acc_of<T>>::threads) bias_kernel(PairArray<T> dbias, BiasAxes axes, Given<T> given, Problem<T> p) {
  using A = acc_of<T>;
  using S = Tile<A>;
  WEFT_DYNAMIC_SHARED(A, shared);
  A *const xs = shared, *const ys = xs + S::chunk, *const tile = ys + S::chunk;

  const int row_tiles = (p.N + S::side - 1) / S::side;
  const Job job(axes.head ? p.H : 1, axes.row ? row_tiles : 1, (p.M + S::side - 1) / S::side);
  const int j0 = job.tile * S::side;
  Scores<A> sums = {};
  for (int b = axes.batch ? job.b : 0; b < (axes.batch ? job.b + 1 : p.B); ++b) {
    const int keys = p.keys_of(b);
    for (int h = axes.head ? job.h : 0; h < (axes.head ? job.h + 1 : p.H); ++h) {
      for (int row_tile = axes.row ? job.slab : 0; row_tile < (axes.row ? job.slab + 1 : row_tiles); ++row_tile) {
        const int i0 = row_tile * S::side;
        const Span seen = p.keys_seen(i0, i0 + S::side, keys);
        if (!seen.meets(j0, j0 + S::side)) continue;
        Operand<T, Side::rows> q(p.q, b, h, p.D, {0, p.N}, p.scale), dout(given.dout, b, h, p.Dv, {0, p.N});
        Operand<T, Side::columns> k(p.k, b, p.kv_head(h), p.D, seen), v(p.v, b, p.kv_head(h), p.Dv, seen);
        q.first = dout.first = i0, k.first = v.first = j0;
        Scores<A> weights, dscores;
        if (dout.stays()) load(xs, dout);
        products(dscores, dout, xs, v, ys);
        if (q.stays()) load(xs, q);
        products(weights, q, xs, k, ys);
        differentiate<Side::rows>(p, given, b, h, i0, j0, keys, weights, dscores, tile);
        WEFT_UNROLL
        for (int r = 0; r < S::rows; ++r) {
          WEFT_UNROLL
          for (int c = 0; c < S::columns; ++c) sums[r][c] += dscores[r][c];
        }
      }
    }
  }
  const int b = axes.batch ? job.b : 0, h = axes.head ? job.h : 0;
  if (axes.row) {
    WEFT_UNROLL
    for (int r = 0; r < S::rows; ++r) {
      const int i = job.slab * S::side + S::row(r);
      WEFT_UNROLL
      for (int c = 0; c < S::columns; ++c) {
        const int j = j0 + S::column(c);
        if (i < p.N && j < p.M) *dbias.at(b, h, i, j) = narrow<T>(sums[r][c]);
      }
    }
    return;
  }
  put_weights(tile, sums);
  __syncthreads();
  const int column = static_cast<int>(threadIdx.x);
  if (column >= S::side || j0 + column >= p.M) return;
  A sum = 0;
  for (int row = 0; row < S::side; ++row) sum += tile[row * S::weights_stride + S::column_place_of(column)];
  *dbias.at(b, h, 0, j0 + column) = narrow<T>(sum);
}

template <class A, int chunks>
constexpr size_t shared_bytes = (chunks * Tile<A>::chunk + Tile<A>::weights) * sizeof(A);

template <class T, int C>
void backward(Tensor& dq, Tensor& dk, Tensor& dv, const Given<T>& given, const Problem<T>& p, AttentionLayout layout) {
  using A = acc_of<T>;
  using S = Tile<A>;
  const int64_t key_slabs = ceil_div(std::max(p.D, p.Dv), C * S::width), query_slabs = ceil_div(p.D, C * S::width);
  launch(keys_kernel<T, C>, Grid(int64_t{p.B} * p.Hkv * key_slabs * ceil_div(p.M, S::side)), S::threads, shared_bytes<A, 3>,
         row_array<T>(dk, layout), row_array<T>(dv, layout), given, p, static_cast<int>(key_slabs));
  launch(queries_kernel<T, C>, Grid(int64_t{p.B} * p.H * query_slabs * ceil_div(p.N, S::side)), S::threads, shared_bytes<A, 3>,
         row_array<T>(dq, layout), given, p, static_cast<int>(query_slabs));
}

template <class T>
void bias_backward(Tensor& dbias, const Given<T>& given, const Problem<T>& p) {
  using A = acc_of<T>;
  using S = Tile<A>;
  const Shape& shape = dbias.shape();
  // A bias that is the same for all keys shifts whole rows of scores, which changes no weight.
  if (shape.rank() == 0 || shape.back() == 1) return fill(dbias, 0);
  const auto has = [&](int axis) { return axis < shape.rank() && shape.back(axis) != 1; };
  const BiasAxes axes{has(3), has(2), has(1)};
  const int64_t tiles =
      (axes.batch ? p.B : 1) * int64_t{axes.head ? p.H : 1} * (axes.row ? ceil_div(p.N, S::side) : 1) * ceil_div(p.M, S::side);
  launch(bias_kernel<T>, Grid(tiles), S::threads, shared_bytes<A, 2>, pair_array<T>(dbias), axes, given, p);
}

}  // namespace

void dot_product_backward(Tensor& dq, Tensor& dk, Tensor& dv, Tensor& dbias, const Tensor& dout, const Tensor& dweights, const Tensor& q,
                          const Tensor& k, const Tensor& v, const Tensor& lse, const Tensor& delta, const AttentionScope& scope) {
  if (k.numel() == 0 || q.numel() == 0 || v.numel() == 0) {
    for (Tensor* gradient : {&dq, &dk, &dv, &dbias}) {
      if (gradient->defined()) fill(*gradient, 0);
    }
    return;
  }
  if (has_mma(q, v)) return dot_product_mma_backward(dq, dk, dv, dbias, dout, dweights, q, k, v, lse, delta, scope);
  dispatch_compute(q.dtype(), "dot_product_backward", [&]<class T>() {
    using A = acc_of<T>;
    constexpr int chunks64 = 64 / Tile<A>::width;
    const Problem<T> p = make_problem<T>(q, k, v, scope);
    const Given<T> given{lse.data<A>(), delta.data<A>(), row_array<const T>(dout, scope.layout),
                         weights_array<const T>(dweights, scope, p.H, p.N, p.M)};
    if (p.D <= 64 && p.Dv <= 64) {
      backward<T, chunks64>(dq, dk, dv, given, p, scope.layout);
    } else {
      backward<T, 2 * chunks64>(dq, dk, dv, given, p, scope.layout);
    }
    if (dbias.defined()) bias_backward<T>(dbias, given, p);
  });
}

}  // namespace weft::cuda
