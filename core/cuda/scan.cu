// The place of the largest element, and running sums. argmax: x read once. cumsum: x read and y written once, by lines that are taken from
// their beginning to their end; where too few lines would keep a device busy they are cut into pieces, whose sums are taken first.
#include <cmath>

#include "weft/core/cuda/reduce.cuh"

namespace weft::cuda {
namespace {

// ---- argmax ---------------------------------------------------------------------------------------------------------------------------

// The first of the largest elements so far; NaN counts as the largest.
template <class A>
struct FirstLargest {
  static constexpr A missing = -std::numeric_limits<A>::infinity();
  static constexpr int64_t nowhere = std::numeric_limits<int64_t>::max();
  A value = missing;
  int64_t place = nowhere;

  __device__ static bool same(A a, A b) { return a == b || (a != a && b != b); }
  __device__ static bool larger(A a, A b) { return a > b || (a != a && b == b); }

  template <int K>
  __device__ void take(const A (&x)[K], int64_t first, int64_t step) {
    for (int j = 0; j < K; ++j) {
      const bool better = larger(x[j], value) || place == nowhere;
      value = better ? x[j] : value;
      place = better ? first + j * step : place;
    }
  }
  __device__ void join(const FirstLargest& other) {
    if (larger(other.value, value) || (same(other.value, value) && other.place < place)) *this = other;
  }
  template <class Reduce>
  __device__ void join_lanes(Reduce reduce) {
    const A largest = reduce(value, Largest(), missing);
    place = reduce(same(value, largest) ? place : nowhere, Smallest(), nowhere);
    value = largest;
  }
};

struct Places {
  int64_t* y;
  template <int N>
  bool packs() const {
    return true;
  }
  template <class A, int N>
  __device__ void store(int64_t i, const FirstLargest<A> (&x)[N]) const {
    for (int j = 0; j < N; ++j) y[i + j] = x[j].place;
  }
};

// Of pieces: [outer, pieces, inner].
template <class A>
struct ValuesAndPlaces {
  A* values;
  int64_t* places;
  template <int N>
  bool packs() const {
    return true;
  }
  template <int N>
  __device__ void store(int64_t i, const FirstLargest<A> (&x)[N]) const {
    for (int j = 0; j < N; ++j) {
      values[i + j] = x[j].value;
      places[i + j] = x[j].place;
    }
  }
};

// The place found is a piece, and the result what was found there.
struct PlacesWithinPieces {
  int64_t* y;
  const int64_t* places;
  int64_t pieces, inner;
  template <int N>
  bool packs() const {
    return true;
  }
  template <class A, int N>
  __device__ void store(int64_t i, const FirstLargest<A> (&x)[N]) const {
    for (int j = 0; j < N; ++j) y[i + j] = places[((i + j) / inner * pieces + x[j].place) * inner + (i + j) % inner];
  }
};

// ---- cumsum: in double, so that long float32 lines do not drift ------------------------------------------------------------------------

template <class A>
struct SumInDouble {
  static constexpr A missing = 0;
  double total = 0;

  template <int K>
  __device__ void take(const A (&x)[K], int64_t, int64_t) {
    for (int j = 0; j < K; ++j) total += static_cast<double>(x[j]);
  }
  __device__ void join(const SumInDouble& other) { total += other.total; }
  template <class Reduce>
  __device__ void join_lanes(Reduce reduce) {
    total = reduce(total, Add(), 0.0);
  }
};

struct Totals {
  double* sums;
  template <int N>
  bool packs() const {
    return true;
  }
  template <class State, int N>
  __device__ void store(int64_t i, const State (&x)[N]) const {
    for (int j = 0; j < N; ++j) sums[i + j] = x[j].total;
  }
};

// Sums over the lanes of a group: of those before this one, and of all.
struct GroupSums {
  double before, all;
};

// `round` counts the calls within a kernel.
__device__ GroupSums scan_group(double x, int group, int round) {
  const int width = group < lanes_per_warp ? group : lanes_per_warp, lane = static_cast<int>(threadIdx.x) % width;
  double sum = x;
  for (int step = 1; step < width; step *= 2) {
    const double left = __shfl_up_sync(all_lanes, sum, static_cast<unsigned>(step), width);
    if (lane >= step) sum += left;
  }
  const double left = __shfl_up_sync(all_lanes, sum, 1U, width);
  GroupSums sums{lane > 0 ? left : 0, __shfl_sync(all_lanes, sum, width - 1, width)};
  if (group == width) return sums;
  constexpr int warps = block_threads / lanes_per_warp;
  WEFT_SHARED(double, of_warp, 2 * warps);  // by turns, so that one barrier a round is enough
  double* const totals = of_warp + round % 2 * warps;
  const int warp = static_cast<int>(threadIdx.x) / lanes_per_warp;
  if (lane == 0) totals[warp] = sums.all;
  __syncthreads();
  double before = 0, all = 0;
  for (int w = 0; w < warps; ++w) {
    if (w == warp) before = all;
    all += totals[w];
  }
  return {before + sums.before, all};
}

// Elements k, ..., k + N - 1 of a line, counted from its end when `reverse`; zeros beyond it.
template <int N, class T>
__device__ void load_line(double (&values)[N], const T* line, int64_t size, int64_t k, bool reverse, bool packed) {
  if (packed && k < size) {
    const Pack<T, N> pack = load_pack<N>(line + (reverse ? size - N - k : k));
    for (int j = 0; j < N; ++j) values[j] = static_cast<double>(widen(reverse ? pack.value[N - 1 - j] : pack.value[j]));
    return;
  }
  for (int j = 0; j < N; ++j) {
    values[j] = k + j < size ? static_cast<double>(widen(line[reverse ? size - 1 - k - j : k + j])) : 0;
  }
}
template <int N, class T>
__device__ void store_line(T* line, const double (&values)[N], int64_t size, int64_t k, bool reverse, bool packed) {
  Pack<T, N> pack;
  for (int j = 0; j < N; ++j) pack.value[reverse ? N - 1 - j : j] = narrow<T>(static_cast<acc_of<T>>(values[j]));
  if (packed && k < size) return store_pack<N>(line + (reverse ? size - N - k : k), pack);
  for (int j = 0; j < N; ++j) {
    if (k + j < size) line[reverse ? size - 1 - k - j : k + j] = pack.value[reverse ? N - 1 - j : j];
  }
}

// `sums` of all pieces, if there are several to a row: groups are whole blocks then.
template <int N, class T>
__global__ void cumsum_rows_kernel(T* y, const T* x, const double* sums /*?*/, int64_t rows, int64_t length, Pieces pieces, int group,
                                   bool packed, bool reverse) {
  const int lane = static_cast<int>(threadIdx.x) % group;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * (block_threads / group) + static_cast<int>(threadIdx.x) / group;
  const int64_t row = item / pieces.count, part = item % pieces.count;
  double carry = 0;
  if (sums != nullptr) {
    for (int64_t p = reverse ? part + 1 + lane : lane; p < (reverse ? pieces.count : part); p += group) {
      carry += sums[row * pieces.count + p];
    }
    carry = block_reduce(carry, Add(), 0.0);
  }
  const int64_t begin = part * pieces.size;
  const int64_t size = row < rows ? std::min(pieces.size, length - begin) : 0;
  const int64_t at = row * length + begin;
  int round = 0;
  for (int64_t k = lane * N; k - lane * N < pieces.size; k += group * N) {  // as many rounds in all groups of a warp
    double values[N];
    load_line<N>(values, x + at, size, k, reverse, packed);
    for (int j = 1; j < N; ++j) values[j] += values[j - 1];
    const GroupSums of_group = scan_group(values[N - 1], group, round++);
    for (int j = 0; j < N; ++j) values[j] += carry + of_group.before;
    store_line<N>(y + at, values, size, k, reverse, packed);
    carry += of_group.all;
  }
}

template <class T>
__global__ void cumsum_columns_kernel(T* y, const T* x, const double* sums /*?*/, AxisView v, Pieces pieces, bool reverse) {
  constexpr int together = 8;  // rows that are read at once
  for (int64_t item = grid_start(); item < v.outer * pieces.count * v.inner; item += grid_stride()) {
    const int64_t i = item % v.inner, piece = item / v.inner, o = piece / pieces.count, part = piece % pieces.count;
    double total = 0;
    if (sums != nullptr) {
      for (int64_t p = reverse ? part + 1 : 0; p < (reverse ? pieces.count : part); ++p) {
        total += sums[(o * pieces.count + p) * v.inner + i];
      }
    }
    const int64_t begin = part * pieces.size, size = std::min(pieces.size, v.length - begin);
    const int64_t step = reverse ? -v.inner : v.inner;
    int64_t at = (o * v.length + begin + (reverse ? size - 1 : 0)) * v.inner + i;
    for (int64_t k = 0; k < size; k += together, at += together * step) {
      T values[together] = {};
      for (int j = 0; j < together; ++j) {
        if (k + j < size) values[j] = x[at + j * step];
      }
      for (int j = 0; j < together; ++j) {
        total += static_cast<double>(widen(values[j]));
        if (k + j < size) y[at + j * step] = narrow<T>(static_cast<acc_of<T>>(total));
      }
    }
  }
}

// A thread takes a column of a piece, and adds up the sums of the pieces before it.
Pieces cut_columns(AxisView v) {
  constexpr int64_t enough_threads = 1 << 18, shortest = 16;
  const auto root = static_cast<int64_t>(std::sqrt(static_cast<double>(v.length)));
  const int64_t wanted = std::max<int64_t>(1, std::min({enough_threads / (v.outer * v.inner), v.length / shortest, root}));
  const int64_t size = ceil_div(v.length, wanted);
  return {size, ceil_div(v.length, size)};
}

}  // namespace

void argmax(Tensor& y, const Tensor& x, int axis) {
  if (x.numel() == 0) return;
  const AxisView v = view_along(x.shape(), axis);
  dispatch_compute(x.dtype(), "argmax", [&]<class T>() {
    using A = acc_of<T>;
    using State = FirstLargest<A>;
    const T* from = x.data<T>();
    const Pieces pieces = cut_axis(from, v);
    if (pieces.count == 1) return reduce_pieces<State>(Places{y.data<int64_t>()}, from, v, pieces);
    const Shape shape{v.outer, pieces.count, v.inner};
    Tensor values = empty(shape, {.dtype = dtype_of<A>, .device = x.device()});
    Tensor places = empty(shape, {.dtype = DType::int64, .device = x.device()});
    reduce_pieces<State>(ValuesAndPlaces<A>{values.data<A>(), places.data<int64_t>()}, from, v, pieces);
    reduce_pieces<State>(PlacesWithinPieces{y.data<int64_t>(), places.data<int64_t>(), pieces.count, v.inner},
                         static_cast<const A*>(values.data<A>()), {v.outer, pieces.count, v.inner}, {pieces.count, 1});
  });
}

void cumsum(Tensor& y, const Tensor& x, int axis, bool reverse) {
  if (x.numel() == 0) return;
  const AxisView v = view_along(x.shape(), axis);
  dispatch_compute(x.dtype(), "cumsum", [&]<class T>() {
    constexpr int N = pack_size<T>;
    T* to = y.data<T>();
    const T* from = x.data<T>();
    const Pieces pieces = v.inner == 1 ? cut_axis(from, v) : cut_columns(v);
    Tensor sums;
    if (pieces.count > 1) {
      sums = empty({v.outer, pieces.count, v.inner}, {.dtype = DType::float64, .device = x.device()});
      reduce_pieces<SumInDouble<acc_of<T>>>(Totals{sums.data<double>()}, from, v, pieces);
    }
    const auto* known = static_cast<const double*>(sums.raw());
    if (v.inner > 1) {
      launch(cumsum_columns_kernel<T>, grid_over(v.outer * pieces.count * v.inner), block_threads, 0, to, from, known, v, pieces, reverse);
      return;
    }
    const int64_t packs = ceil_div(pieces.size, N);
    constexpr int64_t longest_for_warp = 2 * lanes_per_warp;
    const int group = pieces.count > 1 || packs > longest_for_warp
                          ? block_threads
                          : static_cast<int>(std::bit_ceil(static_cast<uint64_t>(std::min<int64_t>(packs, lanes_per_warp))));
    const bool packed = v.length % N == 0 && can_pack<N>(to, from);
    launch(cumsum_rows_kernel<N, T>, ceil_div(v.outer * pieces.count, block_threads / group), block_threads, 0, to, from, known, v.outer,
           v.length, pieces, group, packed, reverse);
  });
}

}  // namespace weft::cuda
