// The loops behind every elementwise kernel: a formula of core/functors.h in vectors of Simd<T>, over contiguous arrays, in parallel.
//
// Include it after foreach_target.h, and expand the rows of elementwise.def between HWY_BEFORE_NAMESPACE and HWY_AFTER_NAMESPACE.

#if defined(WEFT_CORE_CPU_ELEMENTWISE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WEFT_CORE_CPU_ELEMENTWISE_INL_H_
#undef WEFT_CORE_CPU_ELEMENTWISE_INL_H_
#else
#define WEFT_CORE_CPU_ELEMENTWISE_INL_H_
#endif

#include "weft/core/cpu/broadcast.h"
#include "weft/core/cpu/math-inl.h"
#include "weft/core/cpu/parallel.h"
#include "weft/core/functors.h"
#include "weft/core/kernels.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using weft::HWY_NAMESPACE::Simd;

/// Stands for an operand that a formula does not read; the tensor may be undefined.
struct NotRead {};

// clang-format off
template <class T> HWY_INLINE Simd<T> load(const T* x, int64_t i) { return Simd<T>::load(x + i); }
template <class T> HWY_INLINE Simd<T> load(NotRead, int64_t) { return Simd<T>(); }
template <class T> HWY_INLINE Simd<T> load_tail(const T* x, int64_t i, int64_t n) { return Simd<T>::load_n(x + i, n); }
template <class T> HWY_INLINE Simd<T> load_tail(NotRead, int64_t, int64_t) { return Simd<T>(); }
// clang-format on

/// y[i] = f(x[i], ...) for i in [0, n), where f maps Simd<T> to Simd<T>.
template <class T, class F, class... Operands>
HWY_INLINE void map(F f, int64_t n, T* y, Operands... x) {
  constexpr int64_t lanes = Simd<T>::lanes();
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) f(load<T>(x, i)...).store(y + i);
  if (i < n) f(load_tail<T>(x, i, n - i)...).store_n(y + i, n - i);
}

/// The elements from `begin` on, if the formula reads them.
template <bool is_read, class T>
HWY_INLINE auto operand(const Tensor& x, int64_t begin) {
  if constexpr (is_read) {
    return x.data<T>() + begin;
  } else {
    return NotRead();
  }
}

template <bool is_read, class T>
struct ReaderOf {
  ReaderOf(const Tensor&, const Shape&) {}
  NotRead read(int64_t, int64_t) { return {}; }
  int64_t run() const { return std::numeric_limits<int64_t>::max(); }
};
template <class T>
struct ReaderOf<true, T> : BroadcastReader<T> {
  using BroadcastReader<T>::BroadcastReader;
};

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#endif  // WEFT_CORE_CPU_ELEMENTWISE_INL_H_
