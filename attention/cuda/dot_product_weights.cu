// The weights of attention where somebody wants them, recomputed from the row log-sum-exp, and the row statistic of the backward:
//
//     weights = D * e^(scores - lse)        delta = dout . o + sum over keys of dweights * weights
//
// Weights: N M elements written once, hidden ones as zeros, and 2 N M D operations. delta: dout and o read once.
#include "weft/attention/cuda/tile.cuh"

namespace weft::cuda {
namespace {

/// The weights of a tile, at `weights`: scores from q and k, then e^(score - lse) and dropout.
template <class T>
__device__ void recompute_weights(const Problem<T>& p, int b, int h, const Operand<T, Side::rows>& q, acc_of<T>* qs,
                                  const Operand<T, Side::columns>& k, acc_of<T>* ks, int keys, const acc_of<T>* lse, acc_of<T>* weights) {
  using A = acc_of<T>;
  using S = Tile<A>;
  Scores<A> s;
  products(s, q, qs, k, ks);
  edit_scores<Side::rows>(p, b, h, q.first, k.first, keys, s, weights);
  WEFT_UNROLL
  for (int r = 0; r < S::rows; ++r) {
    const int i = q.first + S::row(r);
    const A row_lse = i < p.N ? lse[p.row_index(b, h, i)] : std::numeric_limits<A>::infinity();
    WEFT_UNROLL
    for (int c = 0; c < S::columns; ++c) s[r][c] = std::exp(s[r][c] - row_lse);
  }
  put_multipliers<Side::rows>(weights, p, b, h, q.first, k.first);
  multiply(s, weights, p.drops());
  put_weights(weights, s);
}

/// Which entries of the weights are whose: rows of `width` entries, and the first of row i is key `key0` + i * `step`.
struct Entries {
  int64_t width;
  int key0, step;
};

template <class T>
__global__ void __launch_bounds__(Tile<acc_of<T>>::threads)
    weights_kernel(T* out, const acc_of<T>* lse, Problem<T> p, Entries entries, int column_tiles) {
  using A = acc_of<T>;
  using S = Tile<A>;
  WEFT_DYNAMIC_SHARED(A, shared);
  A *const qs = shared, *const ks = qs + S::chunk, *const weights = ks + S::chunk;

  const int row_tiles = (p.N + S::side - 1) / S::side;
  const Job job(p.H, row_tiles, column_tiles);
  const int b = job.b, h = job.h, keys = p.keys_of(b), i0 = job.slab * S::side;
  const int j0 = entries.key0 + i0 * entries.step + job.tile * S::side;
  const Span seen = p.keys_seen(i0, i0 + S::side, keys);
  const bool visited = seen.meets(j0, j0 + S::side);
  if (visited) {
    Operand<T, Side::rows> q(p.q, b, h, p.D, {0, p.N}, p.scale);
    Operand<T, Side::columns> k(p.k, b, p.kv_head(h), p.D, seen);
    q.first = i0, k.first = j0;
    if (q.stays()) load(qs, q);
    recompute_weights(p, b, h, q, qs, k, ks, keys, lse, weights);
  }
  __syncwarp();
  WEFT_UNROLL_BY(1)
  for (int r = 0; r < S::rows; ++r) {
    const int i = i0 + S::row(r);
    const int64_t first = j0 - (entries.key0 + int64_t{i} * entries.step);  // where the tile begins in the row
    T* row = out + p.row_index(b, h, i) * entries.width;
    WEFT_UNROLL
    for (int column = S::x(); column < S::side; column += S::across) {  // neighbours by neighbouring lanes
      const A weight = visited ? weights[S::row_place(r) * S::weights_stride + S::column_place_of(column)] : A(0);
      const int64_t entry = first + column;
      if (i < p.N && entry >= 0 && entry < entries.width) row[entry] = narrow<T>(weight);
    }
  }
}

/// Rows dout . o by groups of lanes.
constexpr int delta_lanes = 8;

template <class T>
__global__ void delta_kernel(acc_of<T>* delta, RowArray<const T> dout, RowArray<const T> o, int64_t rows, int H, int N, int width,
                             bool packed) {
  using A = acc_of<T>;
  constexpr int pack = pack_size<T>;
  const int lane = static_cast<int>(threadIdx.x) % delta_lanes;
  const int64_t groups = grid_stride() / delta_lanes;
  for (int64_t first = grid_start() / delta_lanes; first - first % (lanes_per_warp / delta_lanes) < rows; first += groups) {
    const int64_t row = first < rows ? first : rows - 1;  // lanes without a row of their own take part in the sum
    const int i = static_cast<int>(row % N), h = static_cast<int>(row / N % H), b = static_cast<int>(row / N / H);
    const T *x = dout.at(b, h, i), *y = o.at(b, h, i);
    A sum = 0;
    if (packed) {
      for (int e = lane * pack; e < width; e += delta_lanes * pack) {
        const Pack<T, pack> u = load_pack<pack>(x + e), v = load_pack<pack>(y + e);
        WEFT_UNROLL
        for (int l = 0; l < pack; ++l) sum += widen(u.value[l]) * widen(v.value[l]);
      }
    } else {
      for (int e = lane; e < width; e += delta_lanes) sum += widen(x[e]) * widen(y[e]);
    }
    sum = warp_reduce(sum, Add(), delta_lanes);
    if (lane == 0 && first < rows) delta[row] = sum;
  }
}

/// delta += sum over keys of dweights * weights.
template <class T>
__global__ void __launch_bounds__(Tile<acc_of<T>>::threads)
    weights_delta_kernel(acc_of<T>* delta, PairArray<const T> dweights, const acc_of<T>* lse, Problem<T> p) {
  using A = acc_of<T>;
  using S = Tile<A>;
  WEFT_DYNAMIC_SHARED(A, shared);
  A *const qs = shared, *const ks = qs + S::chunk, *const weights = ks + S::chunk;

  const int tiles = (p.N + S::side - 1) / S::side;
  const Job job(p.H, 1, tiles);
  const int b = job.b, h = job.h, keys = p.keys_of(b), i0 = (tiles - 1 - job.tile) * S::side;
  const Span seen = p.keys_seen(i0, i0 + S::side, keys);
  Operand<T, Side::rows> q(p.q, b, h, p.D, {0, p.N}, p.scale);
  Operand<T, Side::columns> k(p.k, b, p.kv_head(h), p.D, seen);
  q.first = i0;
  if (q.stays()) load(qs, q);

  A sums[S::rows] = {};
  for (int j0 = seen.first / 4 * 4; j0 < seen.end; j0 += S::side) {
    k.first = j0;
    recompute_weights(p, b, h, q, qs, k, ks, keys, lse, weights);
    WEFT_UNROLL
    for (int r = 0; r < S::rows; ++r) {
      const int i = i0 + S::row(r);
      WEFT_UNROLL
      for (int c = 0; c < S::columns; ++c) {
        const int j = j0 + S::column(c);
        if (p.in_window(i, j, keys)) sums[r] += widen(*dweights.at(b, h, i, j)) * weights[S::place(r, c)];
      }
    }
  }
  WEFT_UNROLL
  for (int r = 0; r < S::rows; ++r) {
    const A sum = warp_reduce(sums[r], Add(), S::across);
    const int i = i0 + S::row(r);
    if (S::x() == 0 && i < p.N) delta[p.row_index(b, h, i)] += sum;
  }
}

template <class A>
constexpr size_t shared_bytes = (2 * Tile<A>::chunk + Tile<A>::weights) * sizeof(A);

}  // namespace

void dot_product_weights(Tensor& weights, const Tensor& q, const Tensor& k, const Tensor& lse, const AttentionScope& scope) {
  dispatch_compute(q.dtype(), "dot_product_weights", [&]<class T>() {
    using A = acc_of<T>;
    using S = Tile<A>;
    const Problem<T> p = make_problem<T>(q, k, {}, scope);
    // Rows of compact weights begin one key further on with every row: a tile of rows meets side - 1 columns more.
    const Entries entries{weights.size(3), scope.compact ? p.M - p.N - p.left : 0, scope.compact ? 1 : 0};
    const int64_t columns = entries.width + entries.step * (std::min(p.N, S::side) - 1), column_tiles = ceil_div(columns, S::side);
    launch(weights_kernel<T>, Grid(int64_t{p.B} * p.H * ceil_div(p.N, S::side) * column_tiles), S::threads, shared_bytes<A>,
           static_cast<T*>(weights.raw()), lse.data<A>(), p, entries, static_cast<int>(column_tiles));
  });
}

void dot_product_delta(Tensor& delta, const Tensor& dout, const Tensor& o, const Tensor& dweights, const Tensor& q, const Tensor& k,
                       const Tensor& lse, const AttentionScope& scope) {
  dispatch_compute(q.dtype(), "dot_product_delta", [&]<class T>() {
    using A = acc_of<T>;
    using S = Tile<A>;
    const Problem<T> p = make_problem<T>(q, k, {}, scope);
    const auto dout_rows = row_array<const T>(dout, scope.layout), o_rows = row_array<const T>(o, scope.layout);
    const int64_t width = o.size(3), rows = delta.numel();
    const bool packed = width % pack_size<T> == 0 && can_pack<pack_size<T>>(dout_rows.data, o_rows.data);
    launch(delta_kernel<T>, grid_over(rows * delta_lanes), block_threads, 0, delta.data<A>(), dout_rows, o_rows, rows, p.H, p.N,
           static_cast<int>(width), packed);
    if (!dweights.defined()) return;
    launch(weights_delta_kernel<T>, Grid(int64_t{p.B} * p.H * ceil_div(p.N, S::side)), S::threads, shared_bytes<A>, delta.data<A>(),
           weights_array<const T>(dweights, scope, p.H, p.N, p.M), lse.data<A>(), p);
  });
}

}  // namespace weft::cuda
