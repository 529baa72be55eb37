// The forward for a few queries, as generation has them: a tile of 64 would be mostly empty, and heads alone would not fill the GPU.
//
// A block has one query and a range of 256 keys, all of whose scores fit in shared memory. It leaves its part (m, l, sums) of the softmax
// in a workspace, where another kernel puts the ranges of a query together. Every key and value is read once by each query.
#include "weft/attention/cuda/dot_product_few.h"

#include "weft/attention/cuda/problem.cuh"

namespace weft::cuda {
namespace {

constexpr int most_queries = 4;
constexpr int range_keys = 256, threads = 128, product_lanes = 8;  // lanes that share a product q . k

/// q . k[j] for keys [first, end), scaled and edited, into scores[j - first]. q is in shared memory, times scale.
template <int pack, class T>
__device__ void range_scores(acc_of<T>* scores, const acc_of<T>* q, const Problem<T>& p, int b, int h, int i, Span keys, int all_keys) {
  const int group = static_cast<int>(threadIdx.x) / product_lanes, lane = static_cast<int>(threadIdx.x) % product_lanes;
  const T* k = p.k.at(b, p.kv_head(h), 0);
  for (int first = keys.first; first < keys.end; first += threads / product_lanes) {
    const int j = first + group;
    acc_of<T> sum = 0;
    for (int d = lane * pack; d < p.D && j < keys.end; d += product_lanes * pack) {
      const Pack<T, pack> x = load_pack<pack>(k + j * p.k.row + d);
      WEFT_UNROLL
      for (int l = 0; l < pack; ++l) sum += q[d + l] * widen(x.value[l]);
    }
    sum = warp_reduce(sum, Add(), product_lanes);
    if (lane == 0 && j < keys.end) scores[j - keys.first] = p.score(b, h, i, j, all_keys, sum);
  }
}

/// out[e] = sum over keys [first, end) of weights[j - first] v[j][e]. `partial` has place for a pack of every thread.
template <int pack, class T>
__device__ void range_values(acc_of<T>* out, const acc_of<T>* weights, acc_of<T>* partial, const Problem<T>& p, int b, int h, Span keys) {
  using A = acc_of<T>;
  const int thread = static_cast<int>(threadIdx.x);
  const T* v = p.v.at(b, p.kv_head(h), 0);
  for (int e0 = 0; e0 < p.Dv; e0 += threads * pack) {
    const int columns = std::min(p.Dv - e0, threads * pack), packs = columns / pack, groups = threads / packs;
    const int group = thread / packs, e = e0 + thread % packs * pack;
    A sums[pack] = {};
    for (int j = keys.first + group; j < keys.end && group < groups; j += groups) {
      const Pack<T, pack> x = load_pack<pack>(v + j * p.v.row + e);
      const A weight = weights[j - keys.first];
      WEFT_UNROLL
      for (int l = 0; l < pack; ++l) sums[l] += weight * widen(x.value[l]);
    }
    __syncthreads();
    WEFT_UNROLL
    for (int l = 0; l < pack; ++l) partial[thread * pack + l] = sums[l];
    __syncthreads();
    for (int column = thread; column < columns; column += threads) {
      A sum = 0;
      for (int g = 0; g < groups; ++g) sum += partial[g * columns + column];
      out[e0 + column] = sum;
    }
  }
}

/// parts [B, H, N, ranges, 2 + Dv]: maximum, sum, and sums of values.
template <class T>
__global__ void __launch_bounds__(threads) ranges_kernel(acc_of<T>* parts, Problem<T> p, int ranges, bool packed) {
  using A = acc_of<T>;
  constexpr A hidden = -std::numeric_limits<A>::infinity();
  WEFT_SHARED(A, scores, range_keys);
  WEFT_SHARED(A, partial, threads * pack_size<T>);
  WEFT_DYNAMIC_SHARED(A, q);

  const int64_t block = blockIdx.x;
  const int range = static_cast<int>(block % ranges), i = static_cast<int>(block / ranges % p.N);
  const int h = static_cast<int>(block / ranges / p.N % p.H), b = static_cast<int>(block / ranges / p.N / p.H);
  const int all_keys = p.keys_of(b), thread = static_cast<int>(threadIdx.x);
  const Span seen = p.keys_seen(i, i + 1, all_keys);
  const Span keys{std::max(seen.first, range * range_keys), std::min(seen.end, (range + 1) * range_keys)};
  for (int d = thread; d < p.D; d += threads) q[d] = p.scale * widen(p.q.at(b, h, i)[d]);
  __syncthreads();
  if (packed) {
    range_scores<pack_size<T>>(scores, q, p, b, h, i, keys, all_keys);
  } else {
    range_scores<1>(scores, q, p, b, h, i, keys, all_keys);
  }
  __syncthreads();

  const int count = std::max(0, keys.end - keys.first);
  A top = hidden, sum = 0;
  for (int j = thread; j < count; j += threads) top = std::fmax(top, scores[j]);
  top = block_reduce(top, Higher(), hidden);
  const A base = top == hidden ? A(0) : top;
  for (int j = 4 * thread; j < count; j += 4 * threads) {
    A multipliers[4];
    if (p.drops()) p.multipliers(b, h, i, keys.first + j, multipliers);
    WEFT_UNROLL
    for (int l = 0; l < 4; ++l) {
      if (j + l >= count) break;
      const A weight = std::exp(scores[j + l] - base);
      sum += weight;
      scores[j + l] = p.drops() ? weight * multipliers[l] : weight;
    }
  }
  sum = block_reduce(sum, Add(), A(0));
  A* out = parts + block * (p.Dv + 2);
  if (thread == 0) out[0] = top, out[1] = sum;
  if (packed) {
    range_values<pack_size<T>>(out + 2, scores, partial, p, b, h, keys);
  } else {
    range_values<1>(out + 2, scores, partial, p, b, h, keys);
  }
}

template <class T>
__global__ void __launch_bounds__(threads)
    join_ranges_kernel(RowArray<T> o, acc_of<T>* lse, const acc_of<T>* parts, int H, int N, int Dv, int ranges) {
  using A = acc_of<T>;
  constexpr A infinity = std::numeric_limits<A>::infinity();
  const int64_t row = blockIdx.x;
  const int i = static_cast<int>(row % N), h = static_cast<int>(row / N % H), b = static_cast<int>(row / N / H), width = Dv + 2;
  const A* first = parts + row * ranges * width;
  A top = -infinity, sum = 0;
  for (int n = 0; n < ranges; ++n) top = std::fmax(top, first[n * int64_t{width}]);
  const A base = top == -infinity ? A(0) : top;
  for (int n = 0; n < ranges; ++n) sum += first[n * int64_t{width} + 1] * std::exp(first[n * int64_t{width}] - base);
  const bool blind = sum == 0;
  if (threadIdx.x == 0) lse[row] = blind ? infinity : top + std::log(sum);
  for (int e = static_cast<int>(threadIdx.x); e < Dv; e += threads) {
    A value = 0;
    for (int n = 0; n < ranges; ++n) value += first[n * int64_t{width} + 2 + e] * std::exp(first[n * int64_t{width}] - base);
    o.at(b, h, i)[e] = narrow<T>(blind ? A(0) : value / sum);
  }
}

}  // namespace

bool has_few_queries(const Tensor& q, AttentionLayout layout) {
  constexpr int64_t widest = 4096;  // a query lies in shared memory
  return q.size(layout == AttentionLayout::bhnd ? 2 : 1) <= most_queries && q.size(3) <= widest;
}

void dot_product_few(Tensor& o, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionScope& scope) {
  dispatch_compute(q.dtype(), "dot_product", [&]<class T>() {
    using A = acc_of<T>;
    constexpr int pack = pack_size<T>;
    const Problem<T> p = make_problem<T>(q, k, v, scope);
    const int64_t rows = int64_t{p.B} * p.H * p.N, ranges = std::max<int64_t>(1, ceil_div(p.M, range_keys));
    const bool packed = p.D % pack == 0 && p.Dv % pack == 0 && can_pack<pack>(p.k.data, p.v.data);
    Tensor parts = empty({rows * ranges * (p.Dv + 2)}, lse.options());
    launch(ranges_kernel<T>, Grid(rows * ranges), threads, sizeof(A) * static_cast<size_t>(p.D), parts.data<A>(), p,
           static_cast<int>(ranges), packed);
    launch(join_ranges_kernel<T>, Grid(rows), threads, 0, row_array<T>(o, scope.layout), lse.data<A>(), std::as_const(parts).data<A>(), p.H,
           p.N, p.Dv, static_cast<int>(ranges));
  });
}

}  // namespace weft::cuda
