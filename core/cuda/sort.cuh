// Sorting lines of keys, each together with the place it comes from: every two entries of a line differ, so any sort of them is a stable
// one. Tiles are sorted in shared memory and merged there by rank; longer lines are merged in passes over memory, two runs at a time, each
// block making one tile of the result. A pass reads and writes every entry once. Only the first `kept` entries of a run go on: a topk of
// few passes over long lines is one pass over memory and little more.
#pragma once

#include "weft/core/cuda/common.cuh"

namespace weft::cuda {

/// A 32-bit key and a place below 2^32 - 1.
struct Entry32 {
  using Key = uint32_t;
  uint64_t bits;
  __device__ static Entry32 of(uint32_t key, int64_t place) { return {static_cast<uint64_t>(key) << 32 | static_cast<uint64_t>(place)}; }
  __device__ static Entry32 last() { return {~uint64_t{0}}; }  // behind all others
  __device__ uint32_t key() const { return static_cast<uint32_t>(bits >> 32); }
  __device__ int64_t place() const { return static_cast<int64_t>(bits & 0xffffffffU); }
  __device__ bool operator<(const Entry32& other) const { return bits < other.bits; }
};

/// A 64-bit key and a place.
struct alignas(16) Entry64 {
  using Key = uint64_t;
  uint64_t key_bits, place_bits;
  __device__ static Entry64 of(uint64_t key, int64_t place) { return {key, static_cast<uint64_t>(place)}; }
  __device__ static Entry64 last() { return {~uint64_t{0}, ~uint64_t{0}}; }
  __device__ uint64_t key() const { return key_bits; }
  __device__ int64_t place() const { return static_cast<int64_t>(place_bits); }
  __device__ bool operator<(const Entry64& other) const {
    return key_bits != other.key_bits ? key_bits < other.key_bits : place_bits < other.place_bits;
  }
};

/// Entries in memory, line by line: where a sort comes from or goes to. A source is called with (line, place), a sink with
/// (line, rank, entry).
template <class Entry>
struct EntryLines {
  Entry* entries;
  int64_t length;
  __device__ Entry operator()(int64_t line, int64_t i) const { return entries[line * length + i]; }
  __device__ void operator()(int64_t line, int64_t i, const Entry& entry) const { entries[line * length + i] = entry; }
};

// ---- within a block ---------------------------------------------------------------------------------------------------------------------

inline constexpr int sort_items = 8;  // entries of a thread
inline constexpr int sort_tile = block_threads * sort_items;

/// Two sorted runs, of which none is read beyond its end.
template <class Entry>
struct RunPair {
  const Entry *a, *b;
  int64_t a_size, b_size;

  /// Is a[i] among the first d of the merged run? True up to the number of those that are.
  __device__ bool takes(int64_t i, int64_t d) const { return a[i] < b[d - 1 - i]; }
  /// How many of the first d entries of the merged run are a's.
  __device__ int64_t split(int64_t d) const {
    int64_t low = std::max<int64_t>(0, d - b_size), high = std::min(d, a_size);
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (takes(middle, d)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
  /// The same by a whole warp, which probes 32 places at a time: in memory far away the number of turns is what takes time.
  __device__ int64_t warp_split(int64_t d) const {
    const int lane = static_cast<int>(threadIdx.x) % lanes_per_warp;
    int64_t low = std::max<int64_t>(0, d - b_size), high = std::min(d, a_size);
    while (low < high) {
      const int64_t step = (high - low + lanes_per_warp - 1) / lanes_per_warp, probe = low + lane * step;
      const unsigned votes = __ballot_sync(all_lanes, probe < high && takes(probe, d));
      const int64_t taken = std::popcount(votes);  // the first ones
      if (taken == 0) return low;
      high = std::min(high, low + taken * step);
      low += (taken - 1) * step + 1;
    }
    return low;
  }
  /// Entries d, d + 1, ... of the merged run, `last()` behind its end.
  __device__ void merge(int64_t d, Entry (&out)[sort_items]) const {
    int64_t i = split(std::min(d, a_size + b_size)), j = d - i;
    Entry next_a = i < a_size ? a[i] : Entry::last(), next_b = j < b_size ? b[j] : Entry::last();
    WEFT_UNROLL
    for (int k = 0; k < sort_items; ++k) {
      if (next_b < next_a) {
        out[k] = next_b;
        next_b = ++j < b_size ? b[j] : Entry::last();
      } else {
        out[k] = next_a;
        next_a = ++i < a_size ? a[i] : Entry::last();
      }
    }
  }
};

template <class Entry>
__device__ void sort_in_registers(Entry (&e)[sort_items]) {
  WEFT_UNROLL
  for (int round = 0; round < sort_items; ++round) {
    WEFT_UNROLL
    for (int i = round % 2; i + 1 < sort_items; i += 2) {
      const Entry a = e[i], b = e[i + 1];
      const bool swap = b < a;
      e[i] = swap ? b : a;
      e[i + 1] = swap ? a : b;
    }
  }
}

/// Sorts shared[0 .. count), at most sort_items for each thread. All threads must call it, after a barrier; it ends with one.
template <class Entry>
__device__ void sort_in_block(Entry* shared, int count) {
  const int first = static_cast<int>(threadIdx.x) * sort_items;
  Entry own[sort_items];
  WEFT_UNROLL
  for (int k = 0; k < sort_items; ++k) own[k] = first + k < count ? shared[first + k] : Entry::last();
  sort_in_registers(own);
  for (int width = sort_items;; width *= 2) {
    WEFT_UNROLL
    for (int k = 0; k < sort_items; ++k) {
      if (first + k < count) shared[first + k] = own[k];
    }
    __syncthreads();
    if (width >= count) return;
    const int begin = first / (2 * width) * (2 * width);
    const RunPair<Entry> pair{.a = shared + begin,
                              .b = shared + begin + width,
                              .a_size = std::clamp(count - begin, 0, width),
                              .b_size = std::clamp(count - begin - width, 0, width)};
    pair.merge(first - begin, own);
    __syncthreads();
  }
}

// ---- kernels ----------------------------------------------------------------------------------------------------------------------------
//
// The loops over tasks need no barrier at their ends: a thread fills the places of shared memory that it has emptied itself.

/// Sorts tiles of up to blockDim * sort_items entries; the sink gets the first `kept` of each, tile t of a line as ranks t * kept on.
template <class Entry, class Source, class Sink>
__global__ void sort_tiles_kernel(int64_t lines, int64_t length, int64_t tiles, int64_t kept, Source source, Sink sink) {
  WEFT_DYNAMIC_SHARED(Entry, shared);
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  for (int64_t task = blockIdx.x; task < lines * tiles; task += gridDim.x) {
    const int64_t line = task / tiles, tile = task % tiles, first = tile * sort_tile;
    const int count = static_cast<int>(std::min<int64_t>(length - first, sort_tile));
    for (int i = thread; i < count; i += threads) shared[i] = source(line, first + i);
    __syncthreads();
    sort_in_block(shared, count);
    for (int i = thread; i < count && i < kept; i += threads) sink(line, tile * kept + i, shared[i]);
  }
}

/// Merges runs 2p and 2p + 1 of `width` entries (the last run of a line may be shorter) to one of at most `merged_width`.
template <class Entry, class Sink>
__global__ void merge_runs_kernel(EntryLines<Entry> from, int64_t lines, int64_t pairs, int64_t width, int64_t merged_width, Sink sink) {
  WEFT_DYNAMIC_SHARED(Entry, shared);
  WEFT_SHARED(int64_t, splits, 2);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t tiles = ceil_div(merged_width, sort_tile);
  for (int64_t task = blockIdx.x; task < lines * pairs * tiles; task += gridDim.x) {
    const int64_t tile = task % tiles, pair = task / tiles % pairs, line = task / tiles / pairs;
    const int64_t begin = pair * 2 * width, left = from.length - begin;
    const Entry* a = from.entries + line * from.length + begin;
    const RunPair<Entry> runs{a, a + width, std::min(left, width), std::clamp<int64_t>(left - width, 0, width)};
    const int64_t end = std::min(merged_width, runs.a_size + runs.b_size);
    const int64_t first = tile * sort_tile, last = std::min(first + sort_tile, end);
    if (first >= last) continue;
    // What the tile [first, last) of the merged run is made of.
    if (thread < 2 * lanes_per_warp) {
      const int64_t at = runs.warp_split(thread < lanes_per_warp ? first : last);
      if (thread % lanes_per_warp == 0) splits[thread / lanes_per_warp] = at;
    }
    __syncthreads();
    const int64_t a_begin = splits[0], b_begin = first - a_begin;
    const int a_count = static_cast<int>(splits[1] - a_begin), count = static_cast<int>(last - first);
    for (int i = thread; i < count; i += block_threads) shared[i] = i < a_count ? runs.a[a_begin + i] : runs.b[b_begin + i - a_count];
    __syncthreads();
    Entry own[sort_items];
    RunPair<Entry>{shared, shared + a_count, a_count, count - a_count}.merge(thread * sort_items, own);
    __syncthreads();
    WEFT_UNROLL
    for (int k = 0; k < sort_items; ++k) shared[thread * sort_items + k] = own[k];
    __syncthreads();
    for (int i = thread; i < count; i += block_threads) sink(line, pair * merged_width + first + i, shared[i]);
  }
}

// ---- launchers --------------------------------------------------------------------------------------------------------------------------

template <class Entry>
Tensor entry_workspace(int64_t count, Device device) {
  return empty({count * static_cast<int64_t>(sizeof(Entry) / sizeof(int64_t))}, {.dtype = DType::int64, .device = device});
}
template <class Entry>
EntryLines<Entry> entry_lines(const Tensor& workspace, int64_t length) {
  return {static_cast<Entry*>(workspace.raw()), length};
}

/// Calls sink(line, rank, entry) with the first `kept` entries of the order of every line.
template <class Entry, class Source, class Sink>
void sort_lines(int64_t lines, int64_t length, int64_t kept, const Source& source, const Sink& sink, Device device) {
  if (lines == 0 || kept == 0) return;
  const int64_t tiles = ceil_div(length, sort_tile), run = std::min<int64_t>(kept, sort_tile);
  const int threads = static_cast<int>(round_up(ceil_div(std::min<int64_t>(length, sort_tile), sort_items), lanes_per_warp));
  const size_t shared_bytes = static_cast<size_t>(threads * sort_items) * sizeof(Entry);
  if (tiles == 1) {
    return launch(sort_tiles_kernel<Entry, Source, Sink>, grid_over(lines, 1), threads, shared_bytes, lines, length, tiles, kept, source,
                  sink);
  }
  const int64_t count = (tiles - 1) * run + std::min(run, length - (tiles - 1) * sort_tile);  // entries of a line that go on
  const Tensor sorted = entry_workspace<Entry>(lines * count, device);
  const EntryLines<Entry> runs = entry_lines<Entry>(sorted, count);
  launch(sort_tiles_kernel<Entry, Source, EntryLines<Entry>>, grid_over(lines * tiles, 1), threads, shared_bytes, lines, length, tiles, run,
         source, runs);
  if (2 * run <= sort_tile) return sort_lines<Entry>(lines, count, kept, runs, sink, device);  // sorting tiles again leaves fewer yet
  const auto merge = [&]<class To>(const EntryLines<Entry>& from, int64_t width, int64_t merged_width, const To& to) {
    const int64_t pairs = ceil_div(from.length, 2 * width);
    launch(merge_runs_kernel<Entry, To>, grid_over(lines * pairs * ceil_div(merged_width, sort_tile), 1), block_threads, shared_bytes, from,
           lines, pairs, width, merged_width, to);
  };
  Tensor holder = sorted;
  EntryLines<Entry> from = runs;
  for (int64_t width = run;;) {
    const int64_t merged_width = std::min(2 * width, kept);
    if (from.length <= 2 * width) return merge(from, width, merged_width, sink);
    const int64_t whole = from.length / (2 * width), rest = from.length % (2 * width);
    const int64_t merged = whole * merged_width + std::min(rest, merged_width);
    const Tensor next = entry_workspace<Entry>(lines * merged, device);
    merge(from, width, merged_width, entry_lines<Entry>(next, merged));
    holder = next;
    from = entry_lines<Entry>(next, merged);
    width = merged_width;
  }
}

/// Unsigned keys that compare like values, reversed when `descending`; NaN is last either way, and -0 equals 0.
template <class Unsigned, class T>
__device__ Unsigned sort_key(T value, bool descending) {
  constexpr auto sign = Unsigned{1} << (8 * sizeof(T) - 1);
  if constexpr (std::is_floating_point_v<T>) {
    if (value != value) return ~Unsigned{0};
    value += T(0);
  }
  auto bits = std::bit_cast<Unsigned>(value);
  if (std::is_floating_point_v<T> && (bits & sign) != 0) {
    bits = ~bits;  // of two negative numbers the one with more bits is less
  } else {
    bits ^= sign;
  }
  return descending ? ~bits : bits;
}

}  // namespace weft::cuda
