// Exact softmax attention on the CPU, forward: tiles that stay in cache, running softmax, nothing of size N x M.
//
// A task is a block of query rows of one head. It walks over the blocks of 64 keys that its rows see, packs each once, and for every
// strip of six rows computes scores, exponentials and the product with v while keys and values stay in the first-level cache:
//
//     m' = max(m, scores)    alpha = e^(m - m')    l = alpha l + sum e^(scores - m')    acc = alpha acc + e^(scores - m') v
//
// m need not be the maximum, only near it: it moves when a score exceeds it by more than 8, so that most blocks rescale nothing.
#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/attention/cpu/dot_product.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include <cmath>

#include "weft/attention/cpu/launch.h"
#include "weft/attention/cpu/scores-inl.h"
#include "weft/core/cpu/simd-inl.h"

#ifndef WEFT_ATTENTION_DOT_PRODUCT_ONCE
#define WEFT_ATTENTION_DOT_PRODUCT_ONCE
namespace weft::cpu {

template <class T>
struct Outputs {
  RowArray<T> o;
  T* lse;  // [B, H, N]
};

}  // namespace weft::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace weft::cpu::HWY_NAMESPACE {

constexpr float max_excess = 8;  // a running maximum may be this far below the true one: e^8 is no danger to the sums

/// State of the rows of a task, in its workspace.
template <class T>
struct Rows {
  int64_t width;  // Dv in whole vectors
  T* acc;         // [rows][width]
  T* sums;        // [rows][lanes]: summed over lanes at the end only
  T* maxima;      // [rows]

  Rows(int64_t rows, int64_t Dv, Workspace& work)
      : width(round_up(Dv, vector_lanes<T>)),
        acc(work.take<T>(rows * width)),
        sums(work.take<T>(rows * vector_lanes<T>)),
        maxima(work.take<T>(rows)) {
    std::fill_n(acc, rows * width, T(0));
    std::fill_n(sums, rows * vector_lanes<T>, T(0));
    std::fill_n(maxima, rows, std::numeric_limits<T>::lowest());
  }
};

/// The running softmax for R rows: scores become e^(score - m) in place; m, l and acc of `state` from row `first` on follow.
/// Vectors == 0: `vectors` is a run-time number.
template <int R, int Vectors, class T>
HWY_INLINE void softmax_rows(T* scores, int64_t vectors, const Rows<T>& state, int64_t first) {
  const Tag<T> d;
  if constexpr (Vectors != 0) vectors = Vectors;
  T* maxima = state.maxima + first;
  T* sums = state.sums + first * vector_lanes<T>;
  const auto largest = [&](int64_t r) HWY_ATTR {
    auto top = hn::Load(d, scores + r * block_keys);
#pragma GCC unroll 4
    for (int64_t v = 1; v < vectors; ++v) top = hn::Max(top, hn::Load(d, scores + r * block_keys + v * vector_lanes<T>));
    return top;
  };
  auto exceeds = hn::Gt(largest(0), hn::Set(d, maxima[0] + T(max_excess)));
#pragma GCC unroll 6
  for (int64_t r = 1; r < R; ++r) exceeds = hn::Or(exceeds, hn::Gt(largest(r), hn::Set(d, maxima[r] + T(max_excess))));
  if (!hn::AllFalse(d, exceeds)) {
    for (int64_t r = 0; r < R; ++r) {
      const T top = hn::GetLane(hn::MaxOfLanes(d, largest(r)));
      if (!(top > maxima[r] + T(max_excess))) continue;
      const auto alpha = exp_bounded<T>(hn::Set(d, maxima[r] - top));
      maxima[r] = top;
      hn::Store(hn::Mul(alpha, hn::Load(d, sums + r * vector_lanes<T>)), d, sums + r * vector_lanes<T>);
      T* acc = state.acc + (first + r) * state.width;
      for (int64_t e = 0; e < state.width; e += vector_lanes<T>) hn::Store(hn::Mul(alpha, hn::Load(d, acc + e)), d, acc + e);
    }
  }
  for (int64_t r = 0; r < R; ++r) {
    const auto m = hn::Set(d, maxima[r]);
    auto sum = hn::Load(d, sums + r * vector_lanes<T>);
#pragma GCC unroll 4
    for (int64_t v = 0; v < vectors; ++v) {
      T* s = scores + r * block_keys + v * vector_lanes<T>;
      const auto weight = exp_bounded<T>(hn::Sub(hn::Load(d, s), m));
      sum = hn::Add(sum, weight);
      hn::Store(weight, d, s);
    }
    hn::Store(sum, d, sums + r * vector_lanes<T>);
  }
}

/// Between the two products, for R rows of which `own_rows` are queries: bias, masks, the running softmax, dropout.
template <int R, class T>
HWY_INLINE void scores_to_weights(const Problem<T>& p, int64_t b, int64_t h, int64_t i0, int64_t own_rows, int64_t j0, Columns span,
                                  const Rows<T>& state, int64_t first, T* scores, T* multipliers) {
  constexpr int whole_block = static_cast<int>(block_keys / vector_lanes<T>);
  edit_scores(p, b, h, i0, own_rows, j0, span, scores);
  const int64_t begin = span.first / vector_lanes<T>, vectors = ceil_div(span.end, vector_lanes<T>) - begin;
  T* s = scores + begin * vector_lanes<T>;
  if (vectors == whole_block) {
    softmax_rows<R, whole_block>(s, vectors, state, first);
  } else {
    softmax_rows<R, 0>(s, vectors, state, first);
  }
  for (int64_t r = 0; p.drops() && r < own_rows; ++r) {
    row_multipliers(p, b, h, i0 + r, j0, span, multipliers);
    for (int64_t j = span.first; j < span.end; ++j) scores[r * block_keys + j] *= multipliers[j];
  }
}

/// o = acc / l and lse = m + log l.
template <class T>
HWY_INLINE void finish_rows(const Problem<T>& p, const Outputs<T>& out, const RowTask& task, const Rows<T>& state) {
  const Tag<T> d;
  for (int64_t r = 0; r < task.count; ++r) {
    const T sum = hn::GetLane(hn::SumOfLanes(d, hn::Load(d, state.sums + r * vector_lanes<T>)));
    const bool blind = sum == 0;  // no visible key: a zero row, and weights that vanish when they are recomputed
    const T inverse = blind ? T(0) : 1 / sum;
    const T* HWY_RESTRICT acc = state.acc + r * state.width;
    T* HWY_RESTRICT o = out.o.at(task.b, task.h, task.row0 + r);
    for (int64_t e = 0; e < p.Dv; ++e) o[e] = acc[e] * inverse;
    T& lse = out.lse[(task.b * p.H + task.h) * p.N + task.row0 + r];
    lse = blind ? std::numeric_limits<T>::infinity() : state.maxima[r] + std::log(sum);
  }
}

template <class T>
void forward_task(const Problem<T>& p, const Outputs<T>& out, const RowTask& task, Workspace work) {
  const auto [b, h, row0, count] = task;
  const int64_t strips = ceil_div(count, strip_rows), rows = strips * strip_rows, kv = p.kv_head(h);
  const Rows<T> state(rows, p.Dv, work);
  T* q = work.take<T>(rows * p.D);
  T* keys = work.take<T>(block_keys * p.D);
  T* values = work.take<T>(block_keys * round_up(p.Dv, panel_width<T>));
  T* scores = work.take<T>(strip_rows * block_keys);
  T* multipliers = work.take<T>(block_keys);
  pack_rows(q, p.q.at(b, h, row0), p.q.row, count, p.D, rows, p.scale);

  const int64_t end = p.end_key(b, row0 + count - 1);
  for (int64_t j0 = p.first_key(row0) / block_keys * block_keys; j0 < end; j0 += block_keys) {
    const int64_t next_keys = std::min(block_keys, end - j0 - block_keys);
    pack_columns(keys, p.k.at(b, kv, j0), p.k.row, std::min(block_keys, end - j0), p.D);
    pack_panels(values, p.v.at(b, kv, j0), p.v.row, std::min(block_keys, end - j0), p.Dv, block_keys, T(1));
    for (int64_t strip = 0; strip < strips; ++strip) {
      const int64_t first = strip * strip_rows, i0 = row0 + first, own_rows = std::min(strip_rows, count - first);
      const Columns span = visible_columns(p, b, i0, i0 + own_rows - 1, j0);
      if (span.empty()) continue;
      if (next_keys > 0) {
        const int64_t from = strip * next_keys / strips, to = (strip + 1) * next_keys / strips;
        prefetch_rows(p.k.at(b, kv, j0 + block_keys), p.k.row, p.D, from, to);
        prefetch_rows(p.v.at(b, kv, j0 + block_keys), p.v.row, p.Dv, from, to);
      }
      strip_scores(scores, q + first * p.D, p.D, keys, p.D, span);
      scores_to_weights<strip_rows>(p, b, h, i0, own_rows, j0, span, state, first, scores, multipliers);
      product_panels<strip_rows>(state.width, state.acc + first * state.width, state.width, scores + span.first, block_keys, 1, values,
                                 block_keys, span.first, span.end - span.first, true);
    }
  }
  finish_rows(p, out, task, state);
}

/// A single query, as generation has it: every key and value is read once, so nothing is packed.
template <class T>
void one_query_task(const Problem<T>& p, const Outputs<T>& out, const RowTask& task, Workspace work) {
  using S = weft::HWY_NAMESPACE::Simd<T>;
  constexpr int64_t lanes = S::lanes();
  const auto [b, h, row0, count] = task;
  const int64_t kv = p.kv_head(h), depth = round_up(p.D, lanes);
  const Rows<T> state(1, p.Dv, work);
  T* q = work.take<T>(depth);
  T* scores = work.take<T>(block_keys);
  T* multipliers = work.take<T>(block_keys);
  std::fill_n(q, depth, T(0));
  pack_rows(q, p.q.at(b, h, row0), p.q.row, 1, p.D, 1, p.scale);

  const int64_t end = p.end_key(b, row0);
  for (int64_t j0 = p.first_key(row0) / block_keys * block_keys; j0 < end; j0 += block_keys) {
    const Columns span = visible_columns(p, b, row0, row0, j0);
    if (span.empty()) continue;
    for (int64_t j = span.first; j < span.end; ++j) {
      const T* k = p.k.at(b, kv, j0 + j);
      S even = 0, odd = 0;
      int64_t e = 0;
      for (; e + 2 * lanes <= p.D; e += 2 * lanes) {
        even = mul_add(S::load(k + e), S::load(q + e), even);
        odd = mul_add(S::load(k + e + lanes), S::load(q + e + lanes), odd);
      }
      for (; e < p.D; e += lanes) even = mul_add(S::load_n(k + e, p.D - e), S::load(q + e), even);
      scores[j] = sum(even + odd);
    }
    scores_to_weights<1>(p, b, h, row0, 1, j0, span, state, 0, scores, multipliers);
    for (int64_t e = 0; e < p.Dv; e += panel_vectors * lanes) {
      const int64_t vectors = std::min(panel_vectors, (state.width - e) / lanes), width = p.Dv - e;
      S sums[panel_vectors];
      for (int64_t v = 0; v < vectors; ++v) sums[v] = S::load(state.acc + e + v * lanes);
      for (int64_t j = span.first; j < span.end; ++j) {
        const T* value = p.v.at(b, kv, j0 + j) + e;
        const S weight = scores[j];
        if (width >= panel_vectors * lanes) {
#pragma GCC unroll 4
          for (int64_t v = 0; v < panel_vectors; ++v) sums[v] = mul_add(S::load(value + v * lanes), weight, sums[v]);
        } else {
          for (int64_t v = 0; v < vectors; ++v) sums[v] = mul_add(S::load_n(value + v * lanes, width - v * lanes), weight, sums[v]);
        }
      }
      for (int64_t v = 0; v < vectors; ++v) sums[v].store(state.acc + e + v * lanes);
    }
  }
  finish_rows(p, out, task, state);
}

template <class T>
void any_task(const Problem<T>& p, const Outputs<T>& out, const RowTask& task, Workspace work) {
  if (p.N == 1) {
    one_query_task(p, out, task, work);
  } else {
    forward_task(p, out, task, work);
  }
}

void forward_task_float(const Problem<float>& p, const Outputs<float>& out, const RowTask& task, Workspace work) {
  any_task(p, out, task, work);
}
void forward_task_double(const Problem<double>& p, const Outputs<double>& out, const RowTask& task, Workspace work) {
  any_task(p, out, task, work);
}

}  // namespace weft::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

HWY_EXPORT(forward_task_float);
HWY_EXPORT(forward_task_double);

void dot_product(Tensor& o, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionScope& scope) {
  dispatch_float(q.dtype(), "dot_product", [&]<class T>() {
    const Problem<T> p = make_problem<T>(q, k, v, scope);
    const Outputs<T> out{row_array<T>(o, scope.layout), lse.data<T>()};
    const RowTasks tasks = split_rows(p);
    const int64_t values = round_up(p.Dv, 64);  // whole panels of any instruction set
    const int64_t elements = tasks.rows * (p.D + values + 16 + 1) + block_keys * (p.D + values + strip_rows + 1);
    run_tasks(tasks, elements * int64_t{sizeof(T)}, [&](const RowTask& task, Workspace work) {
      if constexpr (sizeof(T) == 4) {
        HWY_DYNAMIC_DISPATCH(forward_task_float)(p, out, task, work);
      } else {
        HWY_DYNAMIC_DISPATCH(forward_task_double)(p, out, task, work);
      }
    });
  });
}

}  // namespace weft::cpu
#endif
