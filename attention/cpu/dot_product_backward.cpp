// Exact softmax attention on the CPU, backward: one pass over the tiles, five products each, nothing of size N x M.
//
//     P = e^(scores - lse)    dP = dout v^T    dS = P * ((dP + dweights) * D - delta)        (D: dropout multipliers)
//     dv += (P * D)^T dout    dk += dS^T q     dq += dS k     dbias += dS
//
// A task owns a chunk of keys and walks over the query rows that see it, so that dk and dv stay in cache. Chunks of one head add to the
// same dq: they take turns, row block by row block, in the order of the chunks. So every sum has one order, whatever the number of
// threads, and nobody needs a second dq.
#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/attention/cpu/dot_product_backward.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include <atomic>

#include "weft/attention/cpu/launch.h"
#include "weft/attention/cpu/scores-inl.h"
#include "weft/attention/cpu/turns.h"

#ifndef WEFT_ATTENTION_BACKWARD_ONCE
#define WEFT_ATTENTION_BACKWARD_ONCE
namespace weft::cpu {

inline constexpr int64_t tile_rows = 96;  // query rows of a tile: its scores and their gradients fit into the first-level cache
static_assert(tile_rows % strip_rows == 0);

template <class T>
struct Gradients {
  const T* lse;    // [B, H, N]
  const T* delta;  // [B, H, N]
  RowArray<const T> dout;
  PairArray<const T> dweights;
  RowArray<T> dq, dk, dv;
  PairArray<T> dbias;
};

/// Keys [begin, end), the `chunk`-th chunk of chunk_keys, for these batches and query heads one after the other. Several only where they
/// share a gradient: query heads of one key/value head, and whatever a broadcast bias runs over.
struct ChunkTask {
  int64_t chunk, chunk_keys, begin, end;
  int64_t batch, batches, head, heads;
};

}  // namespace weft::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace weft::cpu::HWY_NAMESPACE {

/// Keys and values, packed for both sides of the products, and their gradients. Blocks of 64 keys follow each other in every array.
template <class T>
struct Keys {
  T *key_columns, *value_columns, *key_panels, *dk, *dv;

  Keys at(int64_t key, int64_t D, int64_t Dv) const {
    const int64_t D_width = round_up(D, vector_lanes<T>), Dv_width = round_up(Dv, vector_lanes<T>);
    return {key_columns + key * D, value_columns + key * Dv, key_panels + key * round_up(D, panel_width<T>), dk + key * D_width,
            dv + key * Dv_width};
  }
};

/// A block of query rows, as left sides (`q`, `dout`: rows with a stride) and as right sides (panels) of the products. If a row is no
/// wider than a panel they are the same memory.
template <class T>
struct Queries {
  int64_t row0, count, rows;  // rows: count in whole strips
  T *q, *dout, *q_panels, *dout_panels;
  int64_t q_stride, dout_stride;
  T *lse, *delta, *dq;
};

/// What the tile prefetches meanwhile: share `index` of `shares` of the next `rows` query rows.
struct Ahead {
  int64_t index, shares, rows;
};

template <class T>
struct Tile {
  T *weights, *dscores;  // [tile_rows][block_keys]
  T* multipliers;        // [block_keys]
};

/// One strip of a tile, in place: scores -> weights (times dropout) and dout v^T -> dscores, both 0 where no vector of `span` lies.
template <class T>
HWY_INLINE void differentiate_strip(const Problem<T>& p, const Gradients<T>& out, int64_t b, int64_t h, int64_t i0, int64_t own_rows,
                                    int64_t j0, Columns span, const T* lse, const T* delta, T* weights, T* dscores, T* multipliers) {
  const Tag<T> d;
  const int64_t begin = span.first / vector_lanes<T> * vector_lanes<T>, end = round_up(span.end, vector_lanes<T>);
  const bool drops = p.drops();
  for (int64_t r = 0; r < strip_rows; ++r, weights += block_keys, dscores += block_keys) {
    const auto row_lse = hn::Set(d, lse[r]), row_delta = hn::Set(d, delta[r]);
    const Columns own = r < own_rows ? row_columns(p, b, i0 + r, j0, span) : Columns{};
    if (out.dweights) for_each_pair(out.dweights, b, h, i0 + r, j0, own, [dscores](int64_t j, T g) { dscores[j] += g; });
    if (drops) {
      std::fill_n(multipliers, block_keys, T(0));
      row_multipliers(p, b, h, i0 + r, j0, own, multipliers);
      for (int64_t j = begin; j < end; j += vector_lanes<T>) {
        const auto m = hn::Load(d, multipliers + j), weight = exp_bounded<T>(hn::Sub(hn::Load(d, weights + j), row_lse));
        hn::Store(hn::Mul(weight, hn::MulSub(hn::Load(d, dscores + j), m, row_delta)), d, dscores + j);
        hn::Store(hn::Mul(weight, m), d, weights + j);
      }
    } else {
#pragma GCC unroll 4
      for (int64_t j = begin; j < end; j += vector_lanes<T>) {
        const auto weight = exp_bounded<T>(hn::Sub(hn::Load(d, weights + j), row_lse));
        hn::Store(hn::Mul(weight, hn::Sub(hn::Load(d, dscores + j), row_delta)), d, dscores + j);
        hn::Store(weight, d, weights + j);
      }
    }
    if (end - begin == block_keys) continue;
    for (T* row : {weights, dscores}) {
      std::fill(row, row + begin, T(0));
      std::fill(row + end, row + block_keys, T(0));
    }
  }
}

/// gradient[keys][width] += tile^T panels: for each strip of keys, over the rows that see some of it.
template <class T>
HWY_INLINE void add_key_gradients(const Problem<T>& p, const Queries<T>& queries, int64_t j0, int64_t keys, int64_t width, T* gradient,
                                  const T* tile, const T* panels) {
  constexpr int64_t last_strip = block_keys % strip_rows;
  for (int64_t j = 0; j < keys; j += strip_rows) {
    const int64_t strip = std::min(strip_rows, block_keys - j);
    const int64_t first = std::max(p.first_query(j0 + j) - queries.row0, int64_t{0});
    const int64_t end = std::min(p.end_query(j0 + j + strip - 1) - queries.row0, queries.rows);
    if (first >= end) continue;
    T* c = gradient + j * width;
    const T* a = tile + first * block_keys + j;
    if (strip == strip_rows) {
      product_panels<strip_rows>(width, c, width, a, 1, block_keys, panels, tile_rows, first, end - first, true);
    } else {
      product_panels<last_strip>(width, c, width, a, 1, block_keys, panels, tile_rows, first, end - first, true);
    }
  }
}

/// One block of queries against one block of keys. Product by product, so that the right side stays in the first-level cache.
template <class T>
void backward_tile(const Problem<T>& p, const Gradients<T>& out, int64_t b, int64_t h, const Queries<T>& queries, int64_t j0, int64_t keys,
                   const Keys<T>& block, const Tile<T>& tile, const Ahead& ahead) {
  const int64_t D = round_up(p.D, vector_lanes<T>), Dv = round_up(p.Dv, vector_lanes<T>);
  // Calls f(first row, its index i0, rows, columns that they see) for every strip, and prefetches what comes after `row_width` of `next`.
  const auto for_strips = [&](const auto& next, int64_t width, auto&& f) HWY_ATTR {
    for (int64_t first = 0; first < queries.rows; first += strip_rows) {
      const int64_t i0 = queries.row0 + first, own_rows = std::min(strip_rows, queries.count - first);
      if (ahead.rows > 0) {
        const int64_t slots = ahead.shares * queries.rows, slot = ahead.index * queries.rows + first;
        prefetch_rows(next.at(b, h, queries.row0 + tile_rows), next.row, width, slot * ahead.rows / slots,
                      (slot + strip_rows) * ahead.rows / slots);
      }
      f(first, i0, own_rows, visible_columns(p, b, i0, i0 + own_rows - 1, j0));
    }
  };
  for_strips(p.q, p.D, [&](int64_t first, int64_t, int64_t, Columns span) HWY_ATTR {
    if (span.empty()) return;
    strip_scores(tile.weights + first * block_keys, queries.q + first * queries.q_stride, queries.q_stride, block.key_columns, p.D, span);
  });
  for_strips(out.dout, p.Dv, [&](int64_t first, int64_t i0, int64_t own_rows, Columns span) HWY_ATTR {
    T* weights = tile.weights + first * block_keys;
    T* dscores = tile.dscores + first * block_keys;
    if (span.empty()) {
      std::fill_n(weights, strip_rows * block_keys, T(0));
      std::fill_n(dscores, strip_rows * block_keys, T(0));
      return;
    }
    strip_scores(dscores, queries.dout + first * queries.dout_stride, queries.dout_stride, block.value_columns, p.Dv, span);
    edit_scores(p, b, h, i0, own_rows, j0, span, weights);
    differentiate_strip(p, out, b, h, i0, own_rows, j0, span, queries.lse + first, queries.delta + first, weights, dscores,
                        tile.multipliers);
    for (int64_t r = 0; out.dbias && r < own_rows; ++r) {
      const T* s = dscores + r * block_keys;
      for_each_pair(out.dbias, b, h, i0 + r, j0, row_columns(p, b, i0 + r, j0, span), [s](int64_t j, T& dbias) { dbias += s[j]; });
    }
  });
  for_strips(out.dq, p.D, [&](int64_t first, int64_t, int64_t, Columns span) HWY_ATTR {
    if (span.empty()) return;
    product_panels<strip_rows>(D, queries.dq + first * D, D, tile.dscores + first * block_keys + span.first, block_keys, 1,
                               block.key_panels, block_keys, span.first, span.end - span.first, true);
  });
  add_key_gradients(p, queries, j0, keys, Dv, block.dv, tile.weights, queries.dout_panels);
  add_key_gradients(p, queries, j0, keys, D, block.dk, tile.dscores, queries.q_panels);
}

template <class T>
void pack_queries(const Problem<T>& p, const Gradients<T>& out, int64_t b, int64_t h, Queries<T>& queries) {
  const int64_t row0 = queries.row0, count = queries.count, head = (b * p.H + h) * p.N;
  const T *q = p.q.at(b, h, row0), *dout = out.dout.at(b, h, row0);
  pack_panels(queries.q_panels, q, p.q.row, count, p.D, tile_rows, p.scale);
  pack_panels(queries.dout_panels, dout, out.dout.row, count, p.Dv, tile_rows, T(1));
  if (queries.q != queries.q_panels) pack_rows(queries.q, q, p.q.row, count, p.D, queries.rows, p.scale);
  if (queries.dout != queries.dout_panels) pack_rows(queries.dout, dout, out.dout.row, count, p.Dv, queries.rows, T(1));
  // Rows that only fill the last strip vanish: e^(scores - infinity) = 0.
  std::fill_n(std::copy_n(out.lse + head + row0, count, queries.lse), queries.rows - count, std::numeric_limits<T>::infinity());
  std::fill_n(std::copy_n(out.delta + head + row0, count, queries.delta), queries.rows - count, T(0));
  std::fill_n(queries.dq, queries.rows * round_up(p.D, vector_lanes<T>), T(0));
}

template <class T>
void add_dq(const Problem<T>& p, const Gradients<T>& out, int64_t b, int64_t h, const Queries<T>& queries) {
  const int64_t width = round_up(p.D, vector_lanes<T>);
  const T scale = p.scale;  // q is packed times scale, k is not
  for (int64_t r = 0; r < queries.count; ++r) {
    T* HWY_RESTRICT dq = out.dq.at(b, h, queries.row0 + r);
    const T* HWY_RESTRICT sums = queries.dq + r * width;
    for (int64_t e = 0; e < p.D; ++e) dq[e] += scale * sums[e];
  }
}

template <class T>
void backward_task(const Problem<T>& p, const Gradients<T>& out, const ChunkTask& task, Turns& turns, Workspace work) {
  const int64_t D = round_up(p.D, vector_lanes<T>), Dv = round_up(p.Dv, vector_lanes<T>), group = p.H / p.Hkv;
  const int64_t D_panels = round_up(p.D, panel_width<T>), Dv_panels = round_up(p.Dv, panel_width<T>);
  const int64_t size = round_up(task.end - task.begin, block_keys);
  const Keys<T> keys{work.take<T>(size * p.D), work.take<T>(size * p.Dv), work.take<T>(size * D_panels), work.take<T>(size * D),
                     work.take<T>(size * Dv)};
  Queries<T> queries{};
  queries.q = queries.q_panels = work.take<T>(tile_rows * D_panels);
  queries.dout = queries.dout_panels = work.take<T>(tile_rows * Dv_panels);
  queries.q_stride = queries.dout_stride = panel_width<T>;
  if (D_panels > panel_width<T>) queries.q = work.take<T>(tile_rows * p.D), queries.q_stride = p.D;
  if (Dv_panels > panel_width<T>) queries.dout = work.take<T>(tile_rows * p.Dv), queries.dout_stride = p.Dv;
  queries.lse = work.take<T>(tile_rows);
  queries.delta = work.take<T>(tile_rows);
  queries.dq = work.take<T>(tile_rows * D);
  const Tile<T> tile{work.take<T>(tile_rows * block_keys), work.take<T>(tile_rows * block_keys), work.take<T>(block_keys)};

  for (int64_t b = task.batch; b < task.batch + task.batches; ++b) {
    const int64_t end = std::min(task.end, p.keys_of(b));
    for (int64_t kv = task.head / group; kv < (task.head + task.heads) / group; ++kv) {
      for (int64_t j0 = task.begin; j0 < end; j0 += block_keys) {
        const Keys<T> block = keys.at(j0 - task.begin, p.D, p.Dv);
        const int64_t rows = std::min(block_keys, end - j0);
        pack_columns(block.key_columns, p.k.at(b, kv, j0), p.k.row, rows, p.D);
        pack_columns(block.value_columns, p.v.at(b, kv, j0), p.v.row, rows, p.Dv);
        pack_panels(block.key_panels, p.k.at(b, kv, j0), p.k.row, rows, p.D, block_keys, T(1));
      }
      std::fill_n(keys.dk, size * D, T(0));
      std::fill_n(keys.dv, size * Dv, T(0));
      // Blocks of rows that see some key of the chunk.
      const int64_t first_tile = p.first_query(task.begin) / tile_rows;
      const int64_t end_tile = task.begin < end ? ceil_div(std::max(p.end_query(end - 1), int64_t{0}), tile_rows) : 0;
      for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
        for (int64_t t = first_tile; t < end_tile; ++t) {
          queries.row0 = t * tile_rows, queries.count = std::min(tile_rows, p.N - queries.row0);
          queries.rows = round_up(queries.count, strip_rows);
          pack_queries(p, out, b, h, queries);
          const int64_t last_row = queries.row0 + queries.count - 1, next = t + 1 < end_tile ? std::min(tile_rows, p.N - last_row - 1) : 0;
          for (int64_t j0 = task.begin; j0 < end; j0 += block_keys) {
            if (visible_columns(p, b, queries.row0, last_row, j0).empty()) continue;
            backward_tile(p, out, b, h, queries, j0, std::min(block_keys, end - j0), keys.at(j0 - task.begin, p.D, p.Dv), tile,
                          Ahead{(j0 - task.begin) / block_keys, ceil_div(end - task.begin, block_keys), next});
          }
          const int64_t turn = task.chunk - p.first_key(queries.row0) / task.chunk_keys;  // chunks that these rows saw before this one
          turns.wait_for(b * p.H + h, t, turn);
          add_dq(p, out, b, h, queries);
          turns.pass_on(b * p.H + h, t, turn);
        }
      }
      for (int64_t j = 0; j < task.end - task.begin; ++j) {
        std::copy_n(keys.dk + j * D, p.D, out.dk.at(b, kv, task.begin + j));
        std::copy_n(keys.dv + j * Dv, p.Dv, out.dv.at(b, kv, task.begin + j));
      }
    }
  }
}

void backward_task_float(const Problem<float>& p, const Gradients<float>& out, const ChunkTask& task, Turns& turns, Workspace work) {
  backward_task(p, out, task, turns, work);
}
void backward_task_double(const Problem<double>& p, const Gradients<double>& out, const ChunkTask& task, Turns& turns, Workspace work) {
  backward_task(p, out, task, turns, work);
}

}  // namespace weft::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

HWY_EXPORT(backward_task_float);
HWY_EXPORT(backward_task_double);

namespace {

/// Keys of a chunk: their packed forms and gradients fit into the second-level cache, and a few heads still give many tasks. It depends
/// on sizes only, so that results do not depend on the number of threads.
template <class T>
int64_t chunk_size(const Problem<T>& p, int64_t slabs) {
  constexpr int64_t cache_bytes = 128 << 10, tasks_wanted = 16, smallest = 2 * block_keys;
  const int64_t fitting = cache_bytes / (int64_t{sizeof(T)} * std::max<int64_t>({p.D, p.Dv, 1}));
  const int64_t shared_out = ceil_div(p.M, ceil_div(tasks_wanted, slabs));
  return round_up(std::max(std::min(fitting, shared_out), smallest), block_keys);
}

template <class T>
void run_backward(const Problem<T>& p, const Gradients<T>& out) {
  const int64_t batches = out.dbias && out.dbias.batch == 0 ? p.B : 1;
  const int64_t heads = out.dbias && out.dbias.head == 0 ? p.H : p.H / p.Hkv;
  const int64_t head_slabs = p.H / heads, slabs = p.B / batches * head_slabs;
  const int64_t chunk_keys = chunk_size(p, slabs), tasks = slabs * ceil_div(p.M, chunk_keys);
  const bool small = visible_pairs(p) * static_cast<double>(p.D + p.Dv) < grain / 2;
  const int threads = static_cast<int>(std::min<int64_t>(small ? 1 : num_threads(), tasks));

  const int64_t width = round_up(p.D, 64) + round_up(p.Dv, 64);  // whole panels of any instruction set
  const int64_t elements = chunk_keys * 3 * width + tile_rows * (3 * width + 2 * block_keys + 2) + block_keys;
  const Workspaces workspaces(threads, elements * int64_t{sizeof(T)});
  Turns turns(p.B * p.H, ceil_div(p.N, tile_rows));
  // Tasks are drawn in order, all heads of a chunk before the next chunk. One waits only for tasks drawn earlier: some thread is at them.
  std::atomic<int64_t> drawn{0};
#pragma omp parallel num_threads(threads) if (threads > 1)
  for (int64_t t = drawn++; t < tasks; t = drawn++) {
    const int64_t chunk = t / slabs, slab = t % slabs;
    const ChunkTask task{.chunk = chunk,
                         .chunk_keys = chunk_keys,
                         .begin = chunk * chunk_keys,
                         .end = std::min((chunk + 1) * chunk_keys, p.M),
                         .batch = slab / head_slabs * batches,
                         .batches = batches,
                         .head = slab % head_slabs * heads,
                         .heads = heads};
    if constexpr (sizeof(T) == 4) {
      HWY_DYNAMIC_DISPATCH(backward_task_float)(p, out, task, turns, workspaces.mine());
    } else {
      HWY_DYNAMIC_DISPATCH(backward_task_double)(p, out, task, turns, workspaces.mine());
    }
  }
}

}  // namespace

void dot_product_backward(Tensor& dq, Tensor& dk, Tensor& dv, Tensor& dbias, const Tensor& dout, const Tensor& dweights, const Tensor& q,
                          const Tensor& k, const Tensor& v, const Tensor& lse, const Tensor& delta, const AttentionScope& scope) {
  fill(dq, 0);
  if (dbias.defined()) fill(dbias, 0);
  if (k.numel() == 0 || q.numel() == 0 || v.numel() == 0) {
    fill(dk, 0);
    fill(dv, 0);
    return;
  }
  dispatch_float(q.dtype(), "dot_product_backward", [&]<class T>() {
    const Problem<T> p = make_problem<T>(q, k, v, scope);
    Gradients<T> out{lse.data<T>(),
                     delta.data<T>(),
                     row_array<T>(std::as_const(dout), scope.layout),
                     weights_array<const T>(dweights, p, scope.compact),
                     row_array<T>(dq, scope.layout),
                     row_array<T>(dk, scope.layout),
                     row_array<T>(dv, scope.layout),
                     {}};
    // A bias that is the same for all keys shifts whole rows of scores, which changes no weight: its gradient is the zero it was filled
    // with.
    const bool same_for_keys = dbias.defined() && (dbias.rank() == 0 || dbias.shape().back() == 1);
    if (dbias.defined() && !same_for_keys) out.dbias = pair_array<T>(dbias);
    run_backward(p, out);
  });
}

}  // namespace weft::cpu
#endif
