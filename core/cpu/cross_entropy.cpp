// Cross-entropy of logits [R, V]: log-softmax and the choice of the target in one pass over each row; the backward makes the gradient in
// one pass from the logits and their log-sum-exp. No matrix of probabilities ever exists.
#include "weft/core/kernels.h"

#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/core/cpu/cross_entropy.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>

#include "weft/core/cpu/loops-inl.h"
#include "weft/core/cpu/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t row_block = 1 << 12;  // elements that stay in the L1 cache between their maximum and their sum

template <class T>
struct RowSums {
  T max, exp_sum, sum;  // max(x), sum(exp(x - max)), and sum(x) if asked for
};

template <class T>
RowSums<T> sums_of_row(const T* x, int64_t size, bool want_sum) {
  using S = Simd<T>;
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  RowSums<T> row{lowest, 0, 0};
  for (int64_t begin = 0; begin < size; begin += row_block) {
    const T* block = x + begin;
    const int64_t length = std::min(row_block, size - begin);
    const T before = row.max;
    row.max = max(before, max_row<T>(length, [&](int64_t i, int64_t n) HWY_ATTR { return S::load_n(block + i, n, lowest); }));
    if (want_sum) row.sum += sum_row<T>(length, [&](int64_t i, int64_t n) HWY_ATTR { return S::load_n(block + i, n); });
    if (row.max == lowest) continue;
    if (row.max != before) row.exp_sum *= std::exp(before - row.max);
    row.exp_sum += sum_row<T>(length, [&](int64_t i, int64_t n) HWY_ATTR {
      hwy::Prefetch(block + row_block + i);  // the next block comes in while this one is in the exponential
      return exp_nonpositive(S::load_n(block + i, n, lowest) - row.max);
    });
  }
  return row;
}

// loss = (1 - smoothing) (lse - x[target]) + smoothing (lse - mean(x)), both differences taken from the maximum: it may be large.
void cross_entropy(Tensor& loss, Tensor& lse, const Tensor& logits, const Tensor& targets, int64_t ignore_index, double label_smoothing) {
  dispatch_float(logits.dtype(), "cross_entropy", [&]<class T>() HWY_ATTR {
    const int64_t rows = logits.shape()[0], size = logits.shape()[1];
    const auto smoothing = static_cast<T>(label_smoothing);
    T *losses = loss.data<T>(), *lses = lse.data<T>();
    const T* x = logits.data<T>();
    const int64_t* target = targets.data<int64_t>();
    parallel_for(rows, grain_for(size, heavy_grain), [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t r = begin; r < end; ++r) {
        losses[r] = lses[r] = 0;
        if (target[r] == ignore_index) continue;
        const RowSums<T> row = sums_of_row(x + r * size, size, smoothing != 0);
        const T log_sum = std::log(row.exp_sum);
        lses[r] = row.max + log_sum;
        losses[r] = (1 - smoothing) * (log_sum - (x[r * size + target[r]] - row.max));
        if (smoothing != 0) losses[r] += smoothing * (log_sum - (row.sum / static_cast<T>(size) - row.max));
      }
    });
  });
}

void cross_entropy_backward(Tensor& dlogits, const Tensor& dloss, const Tensor& logits, const Tensor& lse, const Tensor& targets,
                            int64_t ignore_index, double label_smoothing) {
  dispatch_float(logits.dtype(), "cross_entropy", [&]<class T>() HWY_ATTR {
    using S = Simd<T>;
    const int64_t rows = logits.shape()[0], size = logits.shape()[1];
    T* dx = dlogits.data<T>();
    const T *x = logits.data<T>(), *lses = lse.data<T>(), *dlosses = dloss.data<T>();
    const int64_t* target = targets.data<int64_t>();
    parallel_for(rows, grain_for(size, heavy_grain), [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t r = begin; r < end; ++r) {
        const T* row = x + r * size;
        T* drow = dx + r * size;
        if (target[r] == ignore_index) {
          std::fill_n(drow, size, T(0));
          continue;
        }
        const S scale = dlosses[r], offset = lses[r], spread = label_smoothing / static_cast<double>(size);
        each_vector<T>(size, [&](int64_t i, int64_t n)
                                 HWY_ATTR { (scale * (exp_nonpositive(S::load_n(row + i, n) - offset) - spread)).store_n(drow + i, n); });
        drow[target[r]] -= dlosses[r] * static_cast<T>(1 - label_smoothing);
      }
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

HWY_EXPORT(cross_entropy);
HWY_EXPORT(cross_entropy_backward);

void cross_entropy(Tensor& loss, Tensor& lse, const Tensor& logits, const Tensor& targets, int64_t ignore_index, double label_smoothing) {
  HWY_DYNAMIC_DISPATCH(cross_entropy)(loss, lse, logits, targets, ignore_index, label_smoothing);
}
void cross_entropy_backward(Tensor& dlogits, const Tensor& dloss, const Tensor& logits, const Tensor& lse, const Tensor& targets,
                            int64_t ignore_index, double label_smoothing) {
  HWY_DYNAMIC_DISPATCH(cross_entropy_backward)(dlogits, dloss, logits, lse, targets, ignore_index, label_smoothing);
}

}  // namespace weft::cpu
#endif  // HWY_ONCE
