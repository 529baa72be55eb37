// Rotary positions: one pass, a pair of features (a, b) -> (a cos - b sin, a sin + b cos).
#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/core/cpu/rotary.cpp"
#include <hwy/foreach_target.h>

#include "weft/core/cpu/parallel.h"
#include "weft/core/cpu/simd-inl.h"
#include "weft/core/kernels.h"

#ifndef WEFT_CORE_CPU_ROTARY_ROWS
#define WEFT_CORE_CPU_ROTARY_ROWS
namespace weft::cpu {

/// x as rows of `width` features; row r belongs to position first + (r / inner) % length.
struct RotaryRows {
  int64_t count = 0, width = 0, length = 0, inner = 0, pairs = 0, first = 0;
};

}  // namespace weft::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Pairs (2i, 2i + 1).
template <class T>
void rotate_adjacent(T* y, const T* x, const T* cos, const T* sin, T sign, int64_t pairs) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto signs = hn::Set(d, sign);
  int64_t i = 0;
  for (; i + lanes <= pairs; i += lanes) {
    hn::Vec<decltype(d)> a, b;
    hn::LoadInterleaved2(d, x + 2 * i, a, b);
    const auto c = hn::LoadU(d, cos + i);
    const auto s = hn::Mul(hn::LoadU(d, sin + i), signs);
    hn::StoreInterleaved2(hn::NegMulAdd(b, s, hn::Mul(a, c)), hn::MulAdd(a, s, hn::Mul(b, c)), d, y + 2 * i);
  }
  for (; i < pairs; ++i) {
    const T a = x[2 * i], b = x[2 * i + 1], c = cos[i], s = sign * sin[i];
    y[2 * i] = a * c - b * s;
    y[2 * i + 1] = a * s + b * c;
  }
}

// Pairs (i, i + pairs).
template <class T>
void rotate_halves(T* y, const T* x, const T* cos, const T* sin, T sign, int64_t pairs) {
  using V = weft::HWY_NAMESPACE::Simd<T>;
  for (int64_t i = 0; i < pairs; i += V::lanes()) {
    const int64_t n = pairs - i;
    const V a = V::load_n(x + i, n), b = V::load_n(x + pairs + i, n), c = V::load_n(cos + i, n), s = V::load_n(sin + i, n) * V(sign);
    (a * c - b * s).store_n(y + i, n);
    (a * s + b * c).store_n(y + pairs + i, n);
  }
}

template <class T>
void rotate_rows(T* y, const T* x, const T* cos, const T* sin, RotaryRows rows, bool half_split, bool inverse) {
  const T sign = inverse ? T(-1) : T(1);
  parallel_for(rows.count, grain_for(rows.width), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t position = rows.first + (r / rows.inner) % rows.length;
      const T* c = cos + position * rows.pairs;
      const T* s = sin + position * rows.pairs;
      const T* in = x + r * rows.width;
      T* out = y + r * rows.width;
      if (half_split) {
        rotate_halves(out, in, c, s, sign, rows.pairs);
      } else {
        rotate_adjacent(out, in, c, s, sign, rows.pairs);
      }
      std::copy(in + 2 * rows.pairs, in + rows.width, out + 2 * rows.pairs);
    }
  });
}

void rotary_float(float* y, const float* x, const float* cos, const float* sin, RotaryRows rows, bool half_split, bool inverse) {
  rotate_rows(y, x, cos, sin, rows, half_split, inverse);
}
void rotary_double(double* y, const double* x, const double* cos, const double* sin, RotaryRows rows, bool half_split, bool inverse) {
  rotate_rows(y, x, cos, sin, rows, half_split, inverse);
}

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

HWY_EXPORT(rotary_float);
HWY_EXPORT(rotary_double);

void rotary(Tensor& y, const Tensor& x, const Tensor& cos, const Tensor& sin, int axis, int64_t first, bool half_split, bool inverse) {
  if (x.numel() == 0) return;
  RotaryRows rows;
  rows.width = x.size(-1);
  rows.count = x.numel() / rows.width;
  rows.length = x.size(axis);
  rows.inner = 1;
  for (int i = axis + 1; i < x.rank() - 1; ++i) rows.inner *= x.size(i);
  rows.pairs = cos.size(1);
  rows.first = first;
  dispatch_float(x.dtype(), "rotary", [&]<class T>() {
    const auto run = [&](auto kernel) { kernel(y.data<T>(), x.data<T>(), cos.data<T>(), sin.data<T>(), rows, half_split, inverse); };
    if constexpr (std::is_same_v<T, float>) {
      run(HWY_DYNAMIC_DISPATCH(rotary_float));
    } else {
      run(HWY_DYNAMIC_DISPATCH(rotary_double));
    }
  });
}

}  // namespace weft::cpu
#endif  // HWY_ONCE
