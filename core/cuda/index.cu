// Gathering, scattering, embedding. An index that is out of range (check_range tells of it) reads zeros and adds nothing.
//
// Sums need no atomics and have a fixed order: indices are sorted, which keeps those of one target together and in order, and every target
// is added to by one thread (scatter_add) or one group of lanes per part of a row (index_add), in float32 for half types with one rounding
// at the end.
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

// ---- scatter_add: x and index [outer, length, inner], y [outer, rows, inner]
// --------------------------------------------------------------

template <class T>
struct Scatter {
  T* y;
  const T* x;
  const int64_t* index;
  int64_t length, inner, rows;

  __device__ int64_t place(int64_t block, int64_t i, int64_t column) const { return (block * length + i) * inner + column; }
  __device__ void add(int64_t block, int64_t row, int64_t column, acc_of<T> sum) const {
    T& target = y[(block * rows + row) * inner + column];
    target = narrow<T>(widen(target) + sum);
  }
};

// Short columns: whoever is the first of those with one target adds them up.
template <class T>
__global__ void scatter_short_kernel(Scatter<T> s, int64_t n, Divisor length, Divisor inner) {
  for (int64_t e = grid_start(); e < n; e += grid_stride()) {
    const int64_t row = inner.divide(e), column = e - row * s.inner, block = length.divide(row), i = row - block * s.length;
    const int64_t target = s.index[e];
    bool first = in_range(target, s.rows);
    for (int64_t before = 0; first && before < i; ++before) first = s.index[s.place(block, before, column)] != target;
    if (!first) continue;
    acc_of<T> sum = widen(s.x[e]);
    for (int64_t after = i + 1; after < s.length; ++after) {
      const int64_t place = s.place(block, after, column);
      if (s.index[place] == target) sum += widen(s.x[place]);
    }
    s.add(block, target, column, sum);
  }
}

// `order`: [outer * inner, length].
template <class T>
__global__ void scatter_sorted_kernel(Scatter<T> s, int64_t n, Divisor length, Divisor inner, const Entry32* order) {
  for (int64_t e = grid_start(); e < n; e += grid_stride()) {
    const int64_t line = length.divide(e), block = inner.divide(line), column = line - block * s.inner;
    const Entry32* end = order + (line + 1) * s.length;
    const Entry32* entry = order + e;
    const uint32_t target = entry->key();
    if (target >= s.rows || (e > line * s.length && entry[-1].key() == target)) continue;
    acc_of<T> sum = 0;
    for (; entry < end && entry->key() == target; ++entry) sum += widen(s.x[s.place(block, entry->place(), column)]);
    s.add(block, target, column, sum);
  }
}

// ---- index_add: x [outer, length, inner], y [outer, rows, inner], one list of indices
// ----------------------------------------------------

// Sorted entries are added up within chunks, so that a target that thousands of them name is not one group's work. A run of entries of one
// target that goes on beyond its chunk leaves a sum in every chunk, and one group adds these.
constexpr int64_t chunk = 64;
constexpr int most_lanes = 64;  // of a group
constexpr int rows_at_once = 4;

template <class T, int N>
struct AddRows {
  using A = acc_of<T>;
  T* y;
  const T* x;
  const Entry32* order;
  A* sums;  // [outer, chunks, 2, inner]: of the run that came from the chunk before, and of the one that goes on behind
  int64_t length, rows, chunks;
  Divisor by_length, by_chunks, by_tiles;  // a row has tiles of `lanes` packs each
  int64_t packs;                           // of a row
  int lanes;                               // of a group

  __device__ uint32_t key(int64_t p) const { return order[p].key(); }
  __device__ bool begins_run(int64_t p) const { return p == 0 || key(p - 1) != key(p); }
  __device__ bool ends_run(int64_t p) const { return p == length - 1 || key(p + 1) != key(p); }

  /// What entry p adds.
  __device__ Pack<T, N> values(int64_t block, int64_t p, int64_t pack) const {
    return load_pack<N>(x + ((block * length + order[p].place()) * packs + pack) * N);
  }
  __device__ static void add(A (&sum)[N], const Pack<T, N>& more) {
    WEFT_UNROLL
    for (int i = 0; i < N; ++i) sum[i] += widen(more.value[i]);
  }
  __device__ void add_to_target(int64_t block, int64_t row, int64_t pack, const A (&sum)[N]) const {
    T* target = y + ((block * rows + row) * packs + pack) * N;
    Pack<T, N> old = load_pack<N>(target);
    WEFT_UNROLL
    for (int i = 0; i < N; ++i) old.value[i] = narrow<T>(widen(old.value[i]) + sum[i]);
    store_pack<N>(target, old);
  }
  __device__ A* sum_of_chunk(int64_t block, int64_t number, bool goes_on, int64_t pack) const {
    return sums + (((block * chunks + number) * 2 + (goes_on ? 1 : 0)) * packs + pack) * N;
  }
};

// One group for every part of a row, and for every place in the order: those where a run or a chunk begins work.
template <class T, int N>
__global__ void add_chunks_kernel(AddRows<T, N> r, int64_t groups) {
  const int lane = static_cast<int>(threadIdx.x) % r.lanes;
  for (int64_t group = grid_start() / r.lanes; group < groups; group += grid_stride() / r.lanes) {
    const int64_t place = r.by_tiles.divide(group), pack = (group - place * r.by_tiles.value()) * r.lanes + lane;
    const int64_t block = r.by_length.divide(place), first = place - block * r.length;
    const uint32_t target = r.key(first);
    const bool begins = r.begins_run(first);
    if (target >= r.rows || pack >= r.packs || (!begins && first % chunk != 0)) continue;
    const int64_t limit = std::min(r.length, (first / chunk + 1) * chunk);
    acc_of<T> sum[N] = {};
    int64_t p = first;
    for (; p + rows_at_once <= limit && r.key(p + rows_at_once - 1) == target; p += rows_at_once) {
      Pack<T, N> values[rows_at_once];
      WEFT_UNROLL
      for (int i = 0; i < rows_at_once; ++i) values[i] = r.values(block, p + i, pack);
      WEFT_UNROLL
      for (int i = 0; i < rows_at_once; ++i) r.add(sum, values[i]);
    }
    for (; p < limit && r.key(p) == target; ++p) r.add(sum, r.values(block, p, pack));
    const bool ends = r.ends_run(p - 1);
    if (begins && ends) {
      r.add_to_target(block, target, pack, sum);
    } else {
      Pack<acc_of<T>, N> out;
      WEFT_UNROLL
      for (int i = 0; i < N; ++i) out.value[i] = sum[i];
      store_pack<N>(r.sum_of_chunk(block, first / chunk, begins, pack), out);
    }
  }
}

// One group for every part of a row and every chunk: where a run begins that goes on behind.
template <class T, int N>
__global__ void join_chunks_kernel(AddRows<T, N> r, int64_t groups) {
  const int lane = static_cast<int>(threadIdx.x) % r.lanes;
  for (int64_t group = grid_start() / r.lanes; group < groups; group += grid_stride() / r.lanes) {
    const int64_t place = r.by_tiles.divide(group), pack = (group - place * r.by_tiles.value()) * r.lanes + lane;
    const int64_t block = r.by_chunks.divide(place), number = place - block * r.chunks;
    const int64_t next = (number + 1) * chunk;
    if (pack >= r.packs || next >= r.length || r.begins_run(next)) continue;
    const uint32_t target = r.key(next);
    const bool began_before = number > 0 && r.key(number * chunk - 1) == target;
    if (target >= r.rows || began_before) continue;
    acc_of<T> sum[N];
    const auto first = load_pack<N>(r.sum_of_chunk(block, number, true, pack));
    WEFT_UNROLL
    for (int i = 0; i < N; ++i) sum[i] = first.value[i];
    for (int64_t k = number + 1; k < r.chunks && r.key(k * chunk) == target; ++k) {
      const auto more = load_pack<N>(r.sum_of_chunk(block, k, false, pack));
      WEFT_UNROLL
      for (int i = 0; i < N; ++i) sum[i] += more.value[i];
    }
    r.add_to_target(block, target, pack, sum);
  }
}

template <int N, class T>
void add_rows(T* y, const T* x, const Tensor& order, const AxisView& from, int64_t rows) {
  const int64_t packs = from.inner / N, chunks = ceil_div(from.length, chunk);
  const int lanes = static_cast<int>(std::min<int64_t>(most_lanes, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(packs)))));
  const int64_t tiles = ceil_div(packs, lanes);
  const Tensor sums =
      empty({chunks == 1 ? 0 : from.outer * chunks * 2 * from.inner}, {.dtype = dtype_of<acc_of<T>>, .device = order.device()});
  const AddRows<T, N> r{.y = y,
                        .x = x,
                        .order = static_cast<const Entry32*>(order.raw()),
                        .sums = static_cast<acc_of<T>*>(sums.raw()),
                        .length = from.length,
                        .rows = rows,
                        .chunks = chunks,
                        .by_length = Divisor(from.length),
                        .by_chunks = Divisor(chunks),
                        .by_tiles = Divisor(tiles),
                        .packs = packs,
                        .lanes = lanes};
  const int64_t groups = from.outer * from.length * tiles, joined = from.outer * chunks * tiles;
  launch(add_chunks_kernel<T, N>, grid_over(groups * lanes), block_threads, 0, r, groups);
  if (chunks > 1) launch(join_chunks_kernel<T, N>, grid_over(joined * lanes), block_threads, 0, r, joined);
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
