// The weights of attention where somebody wants them, recomputed from the row log-sum-exp, and the row statistic of the backward:
//
//     weights = D * e^(scores - lse)        delta = dout . o + sum over keys of dweights * weights
#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/attention/cpu/dot_product_weights.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "weft/attention/cpu/launch.h"
#include "weft/attention/cpu/scores-inl.h"

#ifndef WEFT_ATTENTION_WEIGHTS_ONCE
#define WEFT_ATTENTION_WEIGHTS_ONCE
namespace weft::cpu {

/// What the weights are recomputed for: to be stored, or to be summed against their gradient.
template <class T>
struct WeightsUse {
  const T* lse;          // [B, H, N]
  PairArray<T> weights;  // the output, or
  PairArray<const T> dweights;
  T* delta;  // [B, H, N]: the sums are added here
};

}  // namespace weft::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace weft::cpu::HWY_NAMESPACE {

template <class T>
void weights_task(const Problem<T>& p, const WeightsUse<T>& use, const RowTask& task, Workspace work) {
  const Tag<T> d;
  const auto [b, h, row0, count] = task;
  const int64_t rows = round_up(count, strip_rows), kv = p.kv_head(h);
  T* q = work.take<T>(rows * p.D);
  T* keys = work.take<T>(block_keys * p.D);
  T* scores = work.take<T>(strip_rows * block_keys);
  T* multipliers = work.take<T>(block_keys);
  const T* lse = use.lse + (b * p.H + h) * p.N;
  T* delta = use.delta ? use.delta + (b * p.H + h) * p.N : nullptr;
  pack_rows(q, p.q.at(b, h, row0), p.q.row, count, p.D, rows, p.scale);

  const int64_t end = p.end_key(b, row0 + count - 1);
  for (int64_t j0 = p.first_key(row0) / block_keys * block_keys; j0 < end; j0 += block_keys) {
    pack_columns(keys, p.k.at(b, kv, j0), p.k.row, std::min(block_keys, end - j0), p.D);
    for (int64_t first = 0; first < count; first += strip_rows) {
      const int64_t i0 = row0 + first, own_rows = std::min(strip_rows, count - first);
      const Columns span = visible_columns(p, b, i0, i0 + own_rows - 1, j0);
      if (span.empty()) continue;
      strip_scores(scores, q + first * p.D, p.D, keys, p.D, span);
      edit_scores(p, b, h, i0, own_rows, j0, span, scores);
      for (int64_t r = 0; r < own_rows; ++r) {
        const int64_t i = i0 + r;
        T* s = scores + r * block_keys;
        const auto row_lse = hn::Set(d, lse[i]);
        for (int64_t j = span.first / vector_lanes<T> * vector_lanes<T>; j < span.end; j += vector_lanes<T>)
          hn::Store(exp_bounded<T>(hn::Sub(hn::Load(d, s + j), row_lse)), d, s + j);
        const Columns own = row_columns(p, b, i, j0, span);
        if (p.drops()) {
          row_multipliers(p, b, h, i, j0, own, multipliers);
          for (int64_t j = own.first; j < own.end; ++j) s[j] *= multipliers[j];
        }
        if (use.weights) for_each_pair(use.weights, b, h, i, j0, own, [s](int64_t j, T& weight) { weight = s[j]; });
        if (use.dweights) {
          T sum = 0;
          for_each_pair(use.dweights, b, h, i, j0, own, [&](int64_t j, T g) { sum += g * s[j]; });
          delta[i] += sum;
        }
      }
    }
  }
}

void weights_task_float(const Problem<float>& p, const WeightsUse<float>& use, const RowTask& task, Workspace work) {
  weights_task(p, use, task, work);
}
void weights_task_double(const Problem<double>& p, const WeightsUse<double>& use, const RowTask& task, Workspace work) {
  weights_task(p, use, task, work);
}

}  // namespace weft::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

HWY_EXPORT(weights_task_float);
HWY_EXPORT(weights_task_double);

namespace {

template <class T>
void run_weights(const Problem<T>& p, const WeightsUse<T>& use) {
  const RowTasks tasks = split_rows(p);
  const int64_t elements = tasks.rows * p.D + block_keys * (p.D + strip_rows + 1);
  run_tasks(tasks, elements * int64_t{sizeof(T)}, [&](const RowTask& task, Workspace work) {
    if constexpr (sizeof(T) == 4) {
      HWY_DYNAMIC_DISPATCH(weights_task_float)(p, use, task, work);
    } else {
      HWY_DYNAMIC_DISPATCH(weights_task_double)(p, use, task, work);
    }
  });
}

}  // namespace

void dot_product_weights(Tensor& weights, const Tensor& q, const Tensor& k, const Tensor& lse, const AttentionScope& scope) {
  fill(weights, 0);
  dispatch_float(q.dtype(), "dot_product_weights", [&]<class T>() {
    const Problem<T> p = make_problem<T>(q, k, {}, scope);
    run_weights<T>(p, {lse.data<T>(), weights_array<T>(weights, p, scope.compact), {}, nullptr});
  });
}

void dot_product_delta(Tensor& delta, const Tensor& dout, const Tensor& o, const Tensor& dweights, const Tensor& q, const Tensor& k,
                       const Tensor& lse, const AttentionScope& scope) {
  dispatch_float(q.dtype(), "dot_product_delta", [&]<class T>() {
    const Problem<T> p = make_problem<T>(q, k, {}, scope);
    const auto dout_rows = row_array<T>(dout, scope.layout), o_rows = row_array<T>(o, scope.layout);
    const int64_t width = o.size(3), heads = p.B * p.H;
    T* sums = delta.data<T>();
#pragma omp parallel for if (heads * p.N * width > 1 << 16)
    for (int64_t row = 0; row < heads * p.N; ++row) {
      const int64_t b = row / p.N / p.H, h = row / p.N % p.H, i = row % p.N;
      const T *x = dout_rows.at(b, h, i), *y = o_rows.at(b, h, i);
      T partial[8] = {};  // eight sums side by side: vectors for the compiler, one order for everyone
      int64_t e = 0;
      for (; e + 8 <= width; e += 8)
        for (int64_t l = 0; l < 8; ++l) partial[l] += x[e + l] * y[e + l];
      for (; e < width; ++e) partial[0] += x[e] * y[e];
      sums[row] = ((partial[0] + partial[1]) + (partial[2] + partial[3])) + ((partial[4] + partial[5]) + (partial[6] + partial[7]));
    }
    if (dweights.defined()) run_weights<T>(p, {lse.data<T>(), {}, weights_array<const T>(dweights, p, scope.compact), sums});
  });
}

}  // namespace weft::cpu
#endif
