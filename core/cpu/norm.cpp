// y = (x - mean) rstd weight + bias: layer norm and RMS norm (no mean, no bias) of rows with a weight per element, group norm of groups of
// channels with a weight per channel.
#include "weft/core/kernels.h"

#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/core/cpu/norm.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>
#include <tuple>

#include "weft/core/cpu/loops-inl.h"
#include "weft/core/cpu/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t most_partials = 64;  // rows are cut into at most so many pieces, each with its own sums for weight and bias
constexpr int64_t fewest_rows = 16;    // ... of at least so many rows: the pieces depend on the shape alone

template <class T>
const T* data_or_null(const Tensor& x) {
  return x.defined() ? x.data<T>() : nullptr;
}

// 1 / sqrt(mean((x - mean)^2) + eps)
template <bool centered, class T>
T inverse_deviation(const T* x, int64_t size, T mean, double eps) {
  using S = Simd<T>;
  const auto count = static_cast<double>(size);
  const T squares = sum_row<T>(
      size, [&](int64_t i, int64_t n) HWY_ATTR { return square(centered ? S::load_n(x + i, n, mean) - mean : S::load_n(x + i, n)); });
  double variance = static_cast<double>(squares) / count;
  if (!(squares < std::numeric_limits<T>::infinity())) {  // float32 beyond 1e19: the squares need the range of a double
    variance = 0;
    for (int64_t i = 0; i < size; ++i) variance += (static_cast<double>(x[i]) - mean) * (static_cast<double>(x[i]) - mean) / count;
  }
  return static_cast<T>(1 / std::sqrt(variance + eps));
}

template <bool centered, class T>
void normalize_rows(T* y, T* means, T* rstds, const T* x, const T* weight, const T* bias, int64_t rows, int64_t size, double eps) {
  using S = Simd<T>;
  parallel_for(rows, grain_for(size, heavy_grain), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t r = begin; r < end; ++r) {
      const T* from = x + r * size;
      T* to = y + r * size;
      T mean = 0;
      if constexpr (centered) {
        mean = sum_row<T>(size, [&](int64_t i, int64_t n) HWY_ATTR { return S::load_n(from + i, n); }) / static_cast<T>(size);
        means[r] = mean;
      }
      const T rstd = rstds[r] = inverse_deviation<centered>(from, size, mean, eps);
      each_vector<T>(size, [&](int64_t i, int64_t n) HWY_ATTR {
        S v = S::load_n(from + i, n);
        if constexpr (centered) v -= mean;
        v *= rstd;
        if (weight != nullptr) v *= S::load_n(weight + i, n);
        if (bias != nullptr) v += S::load_n(bias + i, n);
        v.store_n(to + i, n);
      });
    }
  });
}

// With h = (x - mean) rstd and g = dy * weight: dx = rstd (g - mean(g) - h mean(g h)), dweight = sum(dy h), dbias = sum(dy).
template <bool centered, class T>
void normalize_rows_backward(T* dx, Tensor& dweight, Tensor& dbias, const T* dy, const T* x, const T* means, const T* rstds,
                             const T* weight, int64_t rows, int64_t size) {
  using S = Simd<T>;
  const int64_t piece = std::max(fewest_rows, ceil_div(rows, most_partials));
  const int64_t pieces = ceil_div(rows, piece);
  const auto partial_sums = [&](const Tensor& sums) {
    return sums.defined() ? zeros({pieces, size}, {.dtype = dtype_of<T>, .device = Device::cpu()}) : Tensor();
  };
  Tensor weight_sums = partial_sums(dweight), bias_sums = partial_sums(dbias);
  T* const all_weight_sums = weight_sums.defined() ? weight_sums.data<T>() : nullptr;
  T* const all_bias_sums = bias_sums.defined() ? bias_sums.data<T>() : nullptr;
  parallel_for(pieces, grain_for(piece * size, heavy_grain), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t p = begin; p < end; ++p) {
      T* const dw = all_weight_sums != nullptr ? all_weight_sums + p * size : nullptr;
      T* const db = all_bias_sums != nullptr ? all_bias_sums + p * size : nullptr;
      for (int64_t r = p * piece; r < std::min(rows, (p + 1) * piece); ++r) {
        const T *d = dy + r * size, *from = x + r * size;
        const S mean = centered ? means[r] : T(0), rstd = rstds[r];
        const auto normalized = [&](int64_t i, int64_t n) HWY_ATTR { return (S::load_n(from + i, n) - mean) * rstd; };
        const auto scaled = [&](S v, int64_t i, int64_t n) HWY_ATTR { return weight != nullptr ? v * S::load_n(weight + i, n) : v; };
        const auto [sum_g, sum_gh] = sum_row_twice<T>(size, [&](int64_t i, int64_t n, S& a, S& b) HWY_ATTR {
          const S v = S::load_n(d + i, n), h = normalized(i, n), g = scaled(v, i, n);
          if constexpr (centered) a += g;
          b = mul_add(g, h, b);
          if (dw != nullptr) mul_add(v, h, S::load_n(dw + i, n)).store_n(dw + i, n);
          if (db != nullptr) (v + S::load_n(db + i, n)).store_n(db + i, n);
        });
        const S mean_g = sum_g / static_cast<T>(size), mean_gh = sum_gh / static_cast<T>(size);
        T* const to = dx + r * size;
        each_vector<T>(size, [&](int64_t i, int64_t n) HWY_ATTR {
          const S g = scaled(S::load_n(d + i, n), i, n);
          (rstd * (g - mean_g - normalized(i, n) * mean_gh)).store_n(to + i, n);
        });
      }
    }
  });
  AxisSet first;
  first.add(0);
  if (dweight.defined()) sum(dweight, weight_sums, first);
  if (dbias.defined()) sum(dbias, bias_sums, first);
}

// ---- group norm: x [batch, channels, size], a row of statistics for each [channels / groups, size] -----------------------------------

struct GroupSizes {
  int64_t batch, channels, groups, size;

  GroupSizes(const Tensor& x, int64_t group_count)
      : batch(x.shape()[0]),
        channels(x.shape()[1]),
        groups(group_count),
        size(batch * channels == 0 ? 0 : x.numel() / (batch * channels)) {}
  int64_t rows() const { return size == 0 ? 0 : batch * groups; }
  int64_t per_group() const { return channels / groups; }
};

template <class T>
void normalize_groups(T* y, T* means, T* rstds, const T* x, const T* weight, const T* bias, GroupSizes g, double eps) {
  using S = Simd<T>;
  const int64_t length = g.per_group() * g.size;
  parallel_for(g.rows(), grain_for(length, heavy_grain), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t r = begin; r < end; ++r) {
      const T* row = x + r * length;
      means[r] = sum_row<T>(length, [&](int64_t i, int64_t n) HWY_ATTR { return S::load_n(row + i, n); }) / static_cast<T>(length);
      rstds[r] = inverse_deviation<true>(row, length, means[r], eps);
      for (int64_t k = 0; k < g.per_group(); ++k) {
        const int64_t c = r % g.groups * g.per_group() + k;
        const S mean = means[r], scale = weight != nullptr ? rstds[r] * weight[c] : rstds[r], shift = bias != nullptr ? bias[c] : T(0);
        each_vector<T>(g.size, [&](int64_t i, int64_t n) HWY_ATTR {
          mul_add(S::load_n(row + k * g.size + i, n) - mean, scale, shift).store_n(y + r * length + k * g.size + i, n);
        });
      }
    }
  });
}

// The formulas of normalize_rows_backward, where g = dy weight and all sums over a channel share their weight.
template <class T>
void normalize_groups_backward(T* dx, Tensor& dweight, Tensor& dbias, const T* dy, const T* x, const T* means, const T* rstds,
                               const T* weight, GroupSizes g) {
  using S = Simd<T>;
  const int64_t length = g.per_group() * g.size;
  Tensor weight_sums = zeros({g.batch, g.channels}, {.dtype = dtype_of<T>, .device = Device::cpu()}), bias_sums = zeros_like(weight_sums);
  T *sum_dh = weight_sums.data<T>(), *sum_d = bias_sums.data<T>();
  parallel_for(g.rows(), grain_for(length, heavy_grain), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t r = begin; r < end; ++r) {
      const S mean = means[r], rstd = rstds[r];
      const auto weight_of = [&](int64_t k) { return weight != nullptr ? weight[r % g.groups * g.per_group() + k] : T(1); };
      T sum_g = 0, sum_gh = 0;
      for (int64_t k = 0; k < g.per_group(); ++k) {
        const int64_t channel = r * g.per_group() + k;  // of batch * channels
        const T *d = dy + channel * g.size, *from = x + channel * g.size;
        std::tie(sum_d[channel], sum_dh[channel]) = sum_row_twice<T>(g.size, [&](int64_t i, int64_t n, S& a, S& b) HWY_ATTR {
          const S v = S::load_n(d + i, n);
          a += v;
          b = mul_add(v, (S::load_n(from + i, n) - mean) * rstd, b);
        });
        sum_g += weight_of(k) * sum_d[channel];
        sum_gh += weight_of(k) * sum_dh[channel];
      }
      const S mean_g = sum_g / static_cast<T>(length), mean_gh = sum_gh / static_cast<T>(length);
      for (int64_t k = 0; k < g.per_group(); ++k) {
        const S w = weight_of(k);
        const int64_t at = (r * g.per_group() + k) * g.size;
        each_vector<T>(g.size, [&](int64_t i, int64_t n) HWY_ATTR {
          const S h = (S::load_n(x + at + i, n) - mean) * rstd;
          (rstd * (S::load_n(dy + at + i, n) * w - mean_g - h * mean_gh)).store_n(dx + at + i, n);
        });
      }
    }
  });
  AxisSet first;
  first.add(0);
  if (dweight.defined()) sum(dweight, weight_sums, first);
  if (dbias.defined()) sum(dbias, bias_sums, first);
}

// ---- kernels -------------------------------------------------------------------------------------------------------------------------

int64_t row_size(const Tensor& x) { return x.shape().back(); }
int64_t row_count(const Tensor& x) { return row_size(x) == 0 ? 0 : x.numel() / row_size(x); }

void layer_norm(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  dispatch_float(x.dtype(), "layer_norm", [&]<class T>() HWY_ATTR {
    normalize_rows<true>(y.data<T>(), mean.data<T>(), rstd.data<T>(), x.data<T>(), data_or_null<T>(weight), data_or_null<T>(bias),
                         row_count(x), row_size(x), eps);
  });
}
void layer_norm_backward(Tensor& dx, Tensor& dweight, Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& mean,
                         const Tensor& rstd, const Tensor& weight) {
  dispatch_float(x.dtype(), "layer_norm", [&]<class T>() HWY_ATTR {
    normalize_rows_backward<true>(dx.data<T>(), dweight, dbias, dy.data<T>(), x.data<T>(), mean.data<T>(), rstd.data<T>(),
                                  data_or_null<T>(weight), row_count(x), row_size(x));
  });
}
void rms_norm(Tensor& y, Tensor& rstd, const Tensor& x, const Tensor& weight, double eps) {
  dispatch_float(x.dtype(), "rms_norm", [&]<class T>() HWY_ATTR {
    normalize_rows<false, T>(y.data<T>(), nullptr, rstd.data<T>(), x.data<T>(), data_or_null<T>(weight), nullptr, row_count(x), row_size(x),
                             eps);
  });
}
void rms_norm_backward(Tensor& dx, Tensor& dweight, const Tensor& dy, const Tensor& x, const Tensor& rstd, const Tensor& weight) {
  dispatch_float(x.dtype(), "rms_norm", [&]<class T>() HWY_ATTR {
    Tensor no_bias;
    normalize_rows_backward<false, T>(dx.data<T>(), dweight, no_bias, dy.data<T>(), x.data<T>(), nullptr, rstd.data<T>(),
                                      data_or_null<T>(weight), row_count(x), row_size(x));
  });
}

void group_norm(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t groups,
                double eps) {
  dispatch_float(x.dtype(), "group_norm", [&]<class T>() HWY_ATTR {
    normalize_groups(y.data<T>(), mean.data<T>(), rstd.data<T>(), x.data<T>(), data_or_null<T>(weight), data_or_null<T>(bias),
                     GroupSizes(x, groups), eps);
  });
}
void group_norm_backward(Tensor& dx, Tensor& dweight, Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& mean,
                         const Tensor& rstd, const Tensor& weight, int64_t groups) {
  dispatch_float(x.dtype(), "group_norm", [&]<class T>() HWY_ATTR {
    normalize_groups_backward(dx.data<T>(), dweight, dbias, dy.data<T>(), x.data<T>(), mean.data<T>(), rstd.data<T>(),
                              data_or_null<T>(weight), GroupSizes(x, groups));
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

HWY_EXPORT(layer_norm);
HWY_EXPORT(layer_norm_backward);
HWY_EXPORT(rms_norm);
HWY_EXPORT(rms_norm_backward);
HWY_EXPORT(group_norm);
HWY_EXPORT(group_norm_backward);

void layer_norm(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  HWY_DYNAMIC_DISPATCH(layer_norm)(y, mean, rstd, x, weight, bias, eps);
}
void layer_norm_backward(Tensor& dx, Tensor& dweight, Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& mean,
                         const Tensor& rstd, const Tensor& weight) {
  HWY_DYNAMIC_DISPATCH(layer_norm_backward)(dx, dweight, dbias, dy, x, mean, rstd, weight);
}
void rms_norm(Tensor& y, Tensor& rstd, const Tensor& x, const Tensor& weight, double eps) {
  HWY_DYNAMIC_DISPATCH(rms_norm)(y, rstd, x, weight, eps);
}
void rms_norm_backward(Tensor& dx, Tensor& dweight, const Tensor& dy, const Tensor& x, const Tensor& rstd, const Tensor& weight) {
  HWY_DYNAMIC_DISPATCH(rms_norm_backward)(dx, dweight, dy, x, rstd, weight);
}

void group_norm(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t groups,
                double eps) {
  HWY_DYNAMIC_DISPATCH(group_norm)(y, mean, rstd, x, weight, bias, groups, eps);
}
void group_norm_backward(Tensor& dx, Tensor& dweight, Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& mean,
                         const Tensor& rstd, const Tensor& weight, int64_t groups) {
  HWY_DYNAMIC_DISPATCH(group_norm_backward)(dx, dweight, dbias, dy, x, mean, rstd, weight, groups);
}

}  // namespace weft::cpu
#endif  // HWY_ONCE
