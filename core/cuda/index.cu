// Gathering, scattering, embedding. An index that is out of range (check_range tells of it) reads zeros and adds nothing.
//
// Sums need no atomics and go in the order of the indices: sorting keeps those of one target together and in order, and every target is
// added to by one thread (scatter_add) or one group of lanes per part of a row (index_add), in float32 for half types with one rounding at
// the end.
#include "weft/core/cuda/moves.cuh"
#include "weft/core/cuda/sort.cuh"

namespace weft::cuda {
namespace {

__device__ bool in_range(int64_t index, int64_t size) { return index >= 0 && index < size; }

// ---- moves ------------------------------------------------------------------------------------------------------------------------------

// y [outer, length, inner] <- x [outer, x_length, inner] at an index of its own for every element.
template <class T>
struct Gather {
  const T* x;
  const int64_t* index;
  Divisor inner, length;
  int64_t x_length;
  __device__ T operator()(int64_t e) const {
    const int64_t row = inner.divide(e), column = e - row * inner.value(), block = length.divide(row), at = index[e];
    return in_range(at, x_length) ? x[(block * x_length + at) * inner.value() + column] : T(0);
  }
};

// y [outer, count, row] <- x [outer, x_length, row] at the rows that `index` lists, in units.
template <class U>
struct SelectRows {
  const U* x;
  const int64_t* index;
  Divisor row, count;
  int64_t x_length;
  __device__ U operator()(int64_t e) const {
    const int64_t line = row.divide(e), column = e - line * row.value(), block = count.divide(line);
    const int64_t at = index[line - block * count.value()];
    return in_range(at, x_length) ? load_unit(x + (block * x_length + at) * row.value() + column) : U{};
  }
};

// N neighbours of y [rows, classes].
template <class T, int N>
struct OneHot {
  const int64_t* index;
  Divisor classes;
  T one;
  __device__ Pack<T, N> operator()(int64_t e) const {
    int64_t row = classes.divide(e * N), column = e * N - row * classes.value(), hot = index[row];
    Pack<T, N> pack;
    WEFT_UNROLL
    for (int i = 0; i < N; ++i) {
      pack.value[i] = column == hot ? one : T(0);
      if (++column < classes.value()) continue;
      column = 0;
      if (i + 1 < N) hot = index[++row];
    }
    return pack;
  }
};

// ---- indices by target ------------------------------------------------------------------------------------------------------------------

// The key of an index is the row it names, or `rows` if there is no such row.
struct TargetRows {
  const int64_t* index;
  int64_t length, rows;
  __device__ Entry32 operator()(int64_t line, int64_t i) const {
    const int64_t at = index[line * length + i];
    return Entry32::of(static_cast<uint32_t>(in_range(at, rows) ? at : rows), i);
  }
};

// The entries of every line of indices [lines, length] in the order of the rows that they name.
Tensor sorted_by_target(const char* op, const Tensor& index, int64_t lines, int64_t length, int64_t rows) {
  constexpr int64_t most = std::numeric_limits<uint32_t>::max();
  WEFT_CHECK(length < most && rows < most, "{}: an axis of at most 2^32 - 2 elements, got {} and {}", op, length, rows);
  const Tensor order = entry_workspace<Entry32>(lines * length, index.device());
  sort_lines<Entry32>(lines, length, length, TargetRows{index.data<int64_t>(), length, rows}, entry_lines<Entry32>(order, length),
                      index.device());
  return order;
}

// ---- scatter_add: x and index [outer, length, inner], y [outer, rows, inner] -----------------------------------------------------------

template <class T>
struct Scatter {
  T* y;
  const T* x;
  const int64_t* index;
  int64_t length, inner, rows;

  __device__ int64_t place(int64_t block, int64_t i, int64_t column) const { return (block * length + i) * inner + column; }
  __device__ T& target(int64_t block, int64_t row, int64_t column) const { return y[(block * rows + row) * inner + column]; }
};

// Short columns: whoever is the first of those with one target adds them up.
template <class T>
__global__ void scatter_short_kernel(Scatter<T> s, int64_t n, Divisor length, Divisor inner) {
  for (int64_t e = grid_start(); e < n; e += grid_stride()) {
    const int64_t row = inner.divide(e), column = e - row * s.inner, block = length.divide(row), i = row - block * s.length;
    const int64_t at = s.index[e];
    bool first = in_range(at, s.rows);
    for (int64_t before = 0; first && before < i; ++before) first = s.index[s.place(block, before, column)] != at;
    if (!first) continue;
    T& target = s.target(block, at, column);
    acc_of<T> sum = widen(target) + widen(s.x[e]);
    for (int64_t after = i + 1; after < s.length; ++after) {
      const int64_t place = s.place(block, after, column);
      if (s.index[place] == at) sum += widen(s.x[place]);
    }
    target = narrow<T>(sum);
  }
}

// `order`: [outer * inner, length].
template <class T>
__global__ void scatter_sorted_kernel(Scatter<T> s, int64_t n, Divisor length, Divisor inner, const Entry32* order) {
  for (int64_t e = grid_start(); e < n; e += grid_stride()) {
    const int64_t line = length.divide(e), block = inner.divide(line), column = line - block * s.inner;
    const Entry32* end = order + (line + 1) * s.length;
    const Entry32* entry = order + e;
    const uint32_t at = entry->key();
    if (at >= s.rows || (e > line * s.length && entry[-1].key() == at)) continue;
    T& target = s.target(block, at, column);
    acc_of<T> sum = widen(target);
    for (; entry < end && entry->key() == at; ++entry) sum += widen(s.x[s.place(block, entry->place(), column)]);
    target = narrow<T>(sum);
  }
}

// ---- index_add: x [outer, length, inner], y [outer, rows, inner], one list of indices --------------------------------------------------

constexpr int most_lanes = 64;  // of a group

template <class T, int N>
struct AddRows {
  T* y;
  const T* x;
  const Entry32* order;
  int64_t length, rows, packs;  // packs: of a row
  Divisor by_length, by_tiles;  // a row has tiles of `lanes` packs
  int lanes;                    // of a group

  __device__ uint32_t key(int64_t p) const { return order[p].key(); }

  // Adds the entries p, p + 1, ... of one target to `sum`, K at a time, as long as there are K. All K are read before one is added: rows
  // are far apart, and what a favourite index names is read by one group.
  template <int K>
  __device__ void add(acc_of<T> (&sum)[N], int64_t& p, uint32_t target, int64_t block, int64_t pack) const {
    for (; p + K <= length && key(p + K - 1) == target; p += K) {
      Pack<T, N> values[K];
      WEFT_UNROLL
      for (int k = 0; k < K; ++k) values[k] = load_pack<N>(x + ((block * length + order[p + k].place()) * packs + pack) * N);
      WEFT_UNROLL
      for (int k = 0; k < K; ++k) {
        WEFT_UNROLL
        for (int i = 0; i < N; ++i) sum[i] += widen(values[k].value[i]);
      }
    }
  }
};

// One group for every place in the order and every tile of a row: those where the entries of a target begin do the work.
template <class T, int N>
__global__ void add_rows_kernel(AddRows<T, N> r, int64_t groups) {
  const int lane = static_cast<int>(threadIdx.x) % r.lanes;
  for (int64_t group = grid_start() / r.lanes; group < groups; group += grid_stride() / r.lanes) {
    const int64_t place = r.by_tiles.divide(group), pack = (group - place * r.by_tiles.value()) * r.lanes + lane;
    const int64_t block = r.by_length.divide(place);
    int64_t p = place - block * r.length;
    const uint32_t target = r.key(p);
    if (target >= r.rows || pack >= r.packs || (p > 0 && r.key(p - 1) == target)) continue;
    T* const out = r.y + ((block * r.rows + target) * r.packs + pack) * N;
    Pack<T, N> values = load_pack<N>(out);
    acc_of<T> sum[N];
    WEFT_UNROLL
    for (int i = 0; i < N; ++i) sum[i] = widen(values.value[i]);
    r.template add<16>(sum, p, target, block, pack);
    r.template add<4>(sum, p, target, block, pack);
    r.template add<1>(sum, p, target, block, pack);
    WEFT_UNROLL
    for (int i = 0; i < N; ++i) values.value[i] = narrow<T>(sum[i]);
    store_pack<N>(out, values);
  }
}

template <int N, class T>
void add_rows(T* y, const T* x, const Tensor& order, const AxisView& from, int64_t rows) {
  const int64_t packs = from.inner / N;
  const int lanes = static_cast<int>(std::min<int64_t>(most_lanes, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(packs)))));
  const int64_t tiles = ceil_div(packs, lanes), groups = from.outer * from.length * tiles;
  const AddRows<T, N> r{.y = y,
                        .x = x,
                        .order = static_cast<const Entry32*>(order.raw()),
                        .length = from.length,
                        .rows = rows,
                        .packs = packs,
                        .by_length = Divisor(from.length),
                        .by_tiles = Divisor(tiles),
                        .lanes = lanes};
  launch(add_rows_kernel<T, N>, grid_over(groups * lanes), block_threads, 0, r, groups);
}

}  // namespace

void gather(Tensor& y, const Tensor& x, const Tensor& index, int axis) {
  if (y.numel() == 0) return;
  const AxisView from = view_along(x.shape(), axis), to = view_along(y.shape(), axis);
  dispatch_size(x.dtype(), [&]<class T>() {
    produce<T>(y, y.numel(),
               Gather<T>{static_cast<const T*>(x.raw()), index.data<int64_t>(), Divisor(to.inner), Divisor(to.length), from.length});
  });
}

void scatter_add(Tensor& y, const Tensor& x, const Tensor& index, int axis) {
  if (x.numel() == 0) return;
  constexpr int64_t longest_short = 32;
  const AxisView from = view_along(x.shape(), axis);
  const Divisor length(from.length), inner(from.inner);
  Tensor order;
  if (from.length > longest_short) {
    Tensor lines = index;
    if (from.inner > 1) {
      lines = empty({from.outer, from.inner, from.length}, index.options());
      permute(lines, index.viewed_as({from.outer, from.length, from.inner}), std::array<int, 3>{0, 2, 1});
    }
    order = sorted_by_target("scatter_add", lines, from.outer * from.inner, from.length, y.shape()[axis]);
  }
  dispatch_compute(x.dtype(), "scatter_add", [&]<class T>() {
    const Scatter<T> s{y.data<T>(), x.data<T>(), index.data<int64_t>(), from.length, from.inner, y.shape()[axis]};
    if (order.defined()) {
      launch(scatter_sorted_kernel<T>, grid_over(x.numel()), block_threads, 0, s, x.numel(), length, inner,
             static_cast<const Entry32*>(order.raw()));
    } else {
      launch(scatter_short_kernel<T>, grid_over(x.numel()), block_threads, 0, s, x.numel(), length, inner);
    }
  });
}

void index_select(Tensor& y, const Tensor& x, const Tensor& index, int axis) {
  if (y.numel() == 0) return;
  const AxisView from = view_along(x.shape(), axis);
  const int64_t row_bytes = from.inner * size_of(x.dtype()), unit = widest_unit(address(y), address(x), row_bytes);
  dispatch_unit(unit, [&]<class U>() {
    produce<U>(y, y.bytes() / unit,
               SelectRows<U>{static_cast<const U*>(x.raw()), index.data<int64_t>(), Divisor(row_bytes / unit), Divisor(index.numel()),
                             from.length});
  });
}

void index_add(Tensor& y, const Tensor& x, const Tensor& index, int axis) {
  if (x.numel() == 0) return;
  const AxisView from = view_along(x.shape(), axis);
  const int64_t rows = y.shape()[axis];
  const Tensor order = sorted_by_target("index_add", index, 1, from.length, rows);
  dispatch_compute(x.dtype(), "index_add", [&]<class T>() {
    constexpr int N = pack_size<T>;
    if (from.inner % N == 0 && can_pack<N>(y.data<T>(), x.data<T>())) {
      add_rows<N>(y.data<T>(), x.data<T>(), order, from, rows);
    } else {
      add_rows<1>(y.data<T>(), x.data<T>(), order, from, rows);
    }
  });
}

void one_hot(Tensor& y, const Tensor& index) {
  if (y.numel() == 0) return;
  const Divisor classes(y.shape().back());
  dispatch_size(y.dtype(), [&]<class T>() {
    constexpr int N = pack_size<T>;
    const T one = unit_of<T>(1, y.dtype());
    if (y.numel() % N == 0 && can_pack<N>(static_cast<T*>(y.raw()))) {
      produce<Pack<T, N>>(y, y.numel() / N, OneHot<T, N>{index.data<int64_t>(), classes, one});
    } else {
      produce<Pack<T, 1>>(y, y.numel(), OneHot<T, 1>{index.data<int64_t>(), classes, one});
    }
  });
}

}  // namespace weft::cuda
