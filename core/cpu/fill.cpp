// Fills, conversions between dtypes, and what the engine does to gradients: one pass over memory each.
#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/core/cpu/fill.cpp"
#include <hwy/foreach_target.h>

#include <atomic>

#include "weft/core/cpu/elementwise-inl.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

/// Elements per thread of a loop that only waits for memory.
inline constexpr int64_t memory_grain = 1 << 16;

template <class T>
inline constexpr bool is_half = std::is_same_v<T, float16> || std::is_same_v<T, bfloat16>;

/// One element as another type: halves round once, floating point values become int64 towards zero, within its range (NaN: 0).
template <class To, class From>
HWY_INLINE To convert_element(From x) {
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else if constexpr (is_half<From>) {
    return convert_element<To>(static_cast<float>(x));
  } else if constexpr (is_half<To>) {
    if constexpr (std::is_same_v<From, float>) return To(x);
    return To(static_cast<double>(x));
  } else if constexpr (std::is_same_v<To, bool>) {
    return x != From(0);
  } else if constexpr (std::is_same_v<To, int64_t> && std::is_floating_point_v<From>) {
    if (x >= From(0x1p63)) return std::numeric_limits<int64_t>::max();
    return x >= From(-0x1p63) ? static_cast<int64_t>(x) : x == x ? std::numeric_limits<int64_t>::min() : 0;
  } else {
    return static_cast<To>(x);
  }
}

template <class To, class From>
void convert_elements(To* y, const From* x, int64_t n) {
  int64_t i = 0;
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL  // these have instructions for float16
  const hn::ScalableTag<float> wide;
  const hn::Rebind<hwy::float16_t, decltype(wide)> narrow;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(wide));
  if constexpr (std::is_same_v<To, float> && std::is_same_v<From, float16>) {
    for (; i + lanes <= n; i += lanes)
      hn::StoreU(hn::PromoteTo(wide, hn::LoadU(narrow, reinterpret_cast<const hwy::float16_t*>(x + i))), wide, y + i);
  } else if constexpr (std::is_same_v<To, float16> && std::is_same_v<From, float>) {
    for (; i + lanes <= n; i += lanes)
      hn::StoreU(hn::DemoteTo(narrow, hn::LoadU(wide, x + i)), narrow, reinterpret_cast<hwy::float16_t*>(y + i));
  }
#endif
  for (; i < n; ++i) y[i] = convert_element<To>(x[i]);
}

void convert(Tensor& y, const Tensor& x) {
  dispatch_all(y.dtype(), [&]<class To>() {
    dispatch_all(x.dtype(), [&]<class From>() {
      To* out = y.data<To>();
      const From* in = x.data<From>();
      parallel_for(y.numel(), memory_grain, [=](int64_t begin, int64_t end) { convert_elements(out + begin, in + begin, end - begin); });
    });
  });
}

void fill(Tensor& y, double value) {
  dispatch_all(y.dtype(), [&]<class T>() {
    T* out = y.data<T>();
    const T element = convert_element<T>(value);
    parallel_for(y.numel(), memory_grain, [=](int64_t begin, int64_t end) HWY_ATTR { std::fill(out + begin, out + end, element); });
  });
}

void fill_range(Tensor& y) {
  dispatch_all(y.dtype(), [&]<class T>() {
    T* out = y.data<T>();
    parallel_for(y.numel(), memory_grain, [=](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t i = begin; i < end; ++i) out[i] = convert_element<T>(i);
    });
  });
}

void accumulate(Tensor& x, const Tensor& y, double alpha) {
  dispatch_float(x.dtype(), "accumulate", [&]<class T>() {
    T* out = x.data<T>();
    const T* in = y.data<T>();
    parallel_for(x.numel(), memory_grain, [=](int64_t begin, int64_t end) HWY_ATTR {
      const Simd<T> scale = alpha;
      map([=](Simd<T> a, Simd<T> b) HWY_ATTR { return mul_add(scale, b, a); }, end - begin, out + begin, static_cast<const T*>(out + begin),
          in + begin);
    });
  });
}

void count_nonfinite(Tensor& y, const Tensor& x) {
  std::atomic<int64_t> nan{0}, infinite{0};
  dispatch_float(x.dtype(), "count_nonfinite", [&]<class T>() {
    const T* in = x.data<T>();
    parallel_for(x.numel(), memory_grain, [=, &nan, &infinite](int64_t begin, int64_t end) HWY_ATTR {
      int64_t nans = 0, both = 0;
      for (int64_t i = begin; i < end; ++i) {
        nans += in[i] != in[i] ? 1 : 0;
        both += in[i] - in[i] != T(0) ? 1 : 0;
      }
      nan += nans;
      infinite += both - nans;
    });
  });
  y.data<int64_t>()[0] = nan;
  y.data<int64_t>()[1] = infinite;
}

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

HWY_EXPORT(convert);
HWY_EXPORT(fill);
HWY_EXPORT(fill_range);
HWY_EXPORT(accumulate);
HWY_EXPORT(count_nonfinite);

void convert(Tensor& y, const Tensor& x) { HWY_DYNAMIC_DISPATCH(convert)(y, x); }
void fill(Tensor& y, double value) { HWY_DYNAMIC_DISPATCH(fill)(y, value); }
void fill_range(Tensor& y) { HWY_DYNAMIC_DISPATCH(fill_range)(y); }
void accumulate(Tensor& x, const Tensor& y, double alpha) { HWY_DYNAMIC_DISPATCH(accumulate)(x, y, alpha); }
void count_nonfinite(Tensor& y, const Tensor& x) { HWY_DYNAMIC_DISPATCH(count_nonfinite)(y, x); }

}  // namespace weft::cpu
#endif  // HWY_ONCE
