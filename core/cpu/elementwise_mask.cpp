// Bool tensors: the COMPARE rows of elementwise.def, logic, and what masks are for: where, masked_fill, triangular masks.
//
// Plain loops over contiguous blocks, which the compiler turns into vectors of each instruction set by itself.
#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/core/cpu/elementwise_mask.cpp"
#include <hwy/foreach_target.h>

#include "weft/core/cpu/elementwise-inl.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

#define COMPARE WEFT_COMPARE_FORMULA
#include "weft/core/elementwise.def"
#undef COMPARE

// y[i] = f(a[i], b[i]), broadcasting.
template <class In, class Out, class F>
void combine(Tensor& y, const Tensor& a, const Tensor& b, F f) {
  Out* out = static_cast<Out*>(y.raw());
  parallel_for(y.numel(), light_grain, [&, out, f](int64_t begin, int64_t end) {
    BroadcastReader<In> ra(a, y.shape()), rb(b, y.shape());
    for_each_block(
        begin, end,
        [&](int64_t at, int64_t n) HWY_ATTR {
          const In* va = ra.read(at, n);
          const In* vb = rb.read(at, n);
          Out* result = out + at;
          for (int64_t i = 0; i < n; ++i) result[i] = f(va[i], vb[i]);
        },
        ra, rb);
  });
}

template <class Formula>
void compare(Tensor& y, const Tensor& a, const Tensor& b) {
  const auto run = [&]<class T>() { combine<T, bool>(y, a, b, [](T u, T v) HWY_ATTR { return Formula::value(u, v); }); };
  switch (a.dtype()) {
    case DType::int64:
      return run.template operator()<int64_t>();
    case DType::boolean:
      return run.template operator()<uint8_t>();
    default:
      dispatch_float(a.dtype(), "compare", run);
  }
}

#define COMPARE(name, f) \
  void name(Tensor& y, const Tensor& a, const Tensor& b) { compare<name##_formula>(y, a, b); }
#include "weft/core/elementwise.def"
#undef COMPARE

// bool tensors hold 0 and 1.
void logical_and(Tensor& y, const Tensor& a, const Tensor& b) {
  combine<uint8_t, uint8_t>(y, a, b, [](uint8_t u, uint8_t v) HWY_ATTR { return static_cast<uint8_t>(u & v); });
}
void logical_or(Tensor& y, const Tensor& a, const Tensor& b) {
  combine<uint8_t, uint8_t>(y, a, b, [](uint8_t u, uint8_t v) HWY_ATTR { return static_cast<uint8_t>(u | v); });
}
void logical_not(Tensor& y, const Tensor& x) {
  auto* out = static_cast<uint8_t*>(y.raw());
  const auto* in = static_cast<const uint8_t*>(x.raw());
  parallel_for(y.numel(), light_grain, [=](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t i = begin; i < end; ++i) out[i] = in[i] ^ 1;
  });
}

void where(Tensor& y, const Tensor& mask, const Tensor& a, const Tensor& b) {
  dispatch_size(y.dtype(), [&]<class T>() {
    T* out = static_cast<T*>(y.raw());
    parallel_for(y.numel(), light_grain, [&, out](int64_t begin, int64_t end) {
      BroadcastReader<uint8_t> rm(mask, y.shape());
      BroadcastReader<T> ra(a, y.shape()), rb(b, y.shape());
      for_each_block(
          begin, end,
          [&](int64_t at, int64_t n) HWY_ATTR {
            const uint8_t* m = rm.read(at, n);
            const T* va = ra.read(at, n);
            const T* vb = rb.read(at, n);
            T* result = out + at;
            for (int64_t i = 0; i < n; ++i) result[i] = m[i] != 0 ? va[i] : vb[i];
          },
          rm, ra, rb);
    });
  });
}

void masked_fill(Tensor& y, const Tensor& x, const Tensor& mask, double value) {
  Tensor filler = full({}, value, {.dtype = x.dtype(), .device = Device::cpu()});
  where(y, mask, filler, x);
}

void triangular_mask(Tensor& y, int64_t diagonal, bool upper) {
  const int64_t columns = y.size(-1), rows = y.size(-2);
  bool* out = y.data<bool>();
  if (columns == 0) return;
  parallel_for(y.numel() / columns, grain_for(columns), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      bool* line = out + row * columns;
      const int64_t last = row % rows + diagonal;  // the last column of the lower triangle, the first of the upper
      const int64_t turn = std::clamp<int64_t>(upper ? last : last + 1, 0, columns);
      std::fill(line, line + turn, !upper);
      std::fill(line + turn, line + columns, upper);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

#define COMPARE(name, f) \
  HWY_EXPORT(name);      \
  void name(Tensor& y, const Tensor& a, const Tensor& b) { HWY_DYNAMIC_DISPATCH(name)(y, a, b); }
#include "weft/core/elementwise.def"
#undef COMPARE

HWY_EXPORT(logical_and);
HWY_EXPORT(logical_or);
HWY_EXPORT(logical_not);
HWY_EXPORT(where);
HWY_EXPORT(masked_fill);
HWY_EXPORT(triangular_mask);

void logical_and(Tensor& y, const Tensor& a, const Tensor& b) { HWY_DYNAMIC_DISPATCH(logical_and)(y, a, b); }
void logical_or(Tensor& y, const Tensor& a, const Tensor& b) { HWY_DYNAMIC_DISPATCH(logical_or)(y, a, b); }
void logical_not(Tensor& y, const Tensor& x) { HWY_DYNAMIC_DISPATCH(logical_not)(y, x); }
void where(Tensor& y, const Tensor& mask, const Tensor& a, const Tensor& b) { HWY_DYNAMIC_DISPATCH(where)(y, mask, a, b); }
void masked_fill(Tensor& y, const Tensor& x, const Tensor& mask, double value) { HWY_DYNAMIC_DISPATCH(masked_fill)(y, x, mask, value); }
void triangular_mask(Tensor& y, int64_t diagonal, bool upper) { HWY_DYNAMIC_DISPATCH(triangular_mask)(y, diagonal, upper); }

}  // namespace weft::cpu
#endif  // HWY_ONCE
