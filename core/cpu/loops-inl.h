// Loops over vectors with a tail, shared by the kernels that work on rows.

#if defined(WEFT_CORE_CPU_LOOPS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WEFT_CORE_CPU_LOOPS_INL_H_
#undef WEFT_CORE_CPU_LOOPS_INL_H_
#else
#define WEFT_CORE_CPU_LOOPS_INL_H_
#endif

#include <algorithm>
#include <cstring>
#include <utility>

#include <hwy/cache_control.h>

#include "weft/core/axis.h"
#include "weft/core/cpu/math-inl.h"
#include "weft/core/cpu/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using weft::HWY_NAMESPACE::Simd;

/// Calls f(i, n) for vectors of n elements from i on: n is the number of lanes, a constant after inlining, except in the tail.
template <class T, class F>
HWY_INLINE void each_vector(int64_t size, F f) {
  constexpr int64_t lanes = Simd<T>::lanes();
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) f(i, lanes);
  if (i < size) f(i, size - i);
}

/// Bit i is p[i], for n < 8 truth values: put together in a register, since a vector load of bytes just written would wait for them.
HWY_INLINE uint64_t few_bits(const bool* p, int64_t n) {
  uint64_t bytes = 0;
  if (n >= 4) {  // two loads that overlap
    uint32_t low, high;
    std::memcpy(&low, p, 4);
    std::memcpy(&high, p + n - 4, 4);
    bytes = low | uint64_t{high} << (8 * (n - 4));
  } else {
    for (int64_t i = 0; i < n; ++i) bytes |= uint64_t{p[i]} << (8 * i);
  }
  return bytes * 0x0102040810204080 >> 56;  // gathers the lowest bits of the eight bytes
}

/// The first n of p's truth values; false in the other lanes.
template <class T>
HWY_INLINE typename Simd<T>::Mask load_mask(const bool* p, int64_t n) {
  using D = typename Simd<T>::D;
  constexpr int64_t lanes = Simd<T>::lanes();
  static_assert(lanes <= 16);
  if (n < lanes) {
    uint64_t bits = 0;  // as many bytes as LoadMaskBits reads
    if (n >= 8) {
      uint64_t low;
      std::memcpy(&low, p, 8);
      bits = low * 0x0102040810204080 >> 56 | few_bits(p + 8, n - 8) << 8;
    } else {
      bits = few_bits(p, n);
    }
    return hn::LoadMaskBits(D(), reinterpret_cast<const uint8_t*>(&bits));
  }
  const hn::Rebind<uint8_t, D> bytes;
  const hn::Rebind<uint32_t, D> words;
  const auto wide = hn::PromoteTo(words, hn::LoadU(bytes, reinterpret_cast<const uint8_t*>(p)));
  if constexpr (sizeof(T) == 4) {
    return hn::RebindMask(D(), hn::Ne(wide, hn::Zero(words)));
  } else {
    const hn::Rebind<uint64_t, D> longs;
    return hn::RebindMask(D(), hn::Ne(hn::PromoteTo(longs, wide), hn::Zero(longs)));
  }
}

constexpr int64_t short_size = 24;  // rows of at most so many elements are worth turning around,
constexpr int64_t short_rows = 64;  // so many at a time

/// y [columns, rows] = x [rows, columns] transposed.
template <class T>
HWY_NOINLINE void transpose(T* HWY_RESTRICT y, const T* HWY_RESTRICT x, int64_t rows, int64_t columns) {
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) y[c * rows + r] = x[r * columns + c];
  }
}

/// A vector of doubles from memory of either type, and back.
HWY_INLINE Simd<double> load_double(const double* p) { return Simd<double>::load(p); }
HWY_INLINE Simd<double> load_double(const float* p) {
  const Simd<double>::D d;
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<float, decltype(d)>(), p));
}
HWY_INLINE void store_double(Simd<double> v, double* p) { v.store(p); }
HWY_INLINE void store_double(Simd<double> v, float* p) {
  const hn::Rebind<float, Simd<double>::D> half;
  hn::StoreU(hn::DemoteTo(half, v.v), half, p);
}

/// Folds f(i, n) over a row into one vector, combining with `join`, in four chains: the latency of one would bound the loop.
/// f(i, n) must give what leaves a result unchanged in lanes from n on.
template <class T, class F, class Join>
HWY_INLINE Simd<T> fold_row(int64_t size, Simd<T> start, F f, Join join) {
  using S = Simd<T>;
  constexpr int64_t lanes = S::lanes();
  S a = start, b = start, c = start, d = start;
  int64_t i = 0;
  for (; i + 4 * lanes <= size; i += 4 * lanes) {
    a = join(a, f(i, lanes));
    b = join(b, f(i + lanes, lanes));
    c = join(c, f(i + 2 * lanes, lanes));
    d = join(d, f(i + 3 * lanes, lanes));
  }
  for (; i + lanes <= size; i += lanes) a = join(a, f(i, lanes));
  if (i < size) b = join(b, f(i, size - i));
  return join(join(a, b), join(c, d));
}

/// The sum of f(i, n) over a row; lanes from n on must be zero.
template <class T, class F>
HWY_INLINE T sum_row(int64_t size, F f) {
  return sum(fold_row<T>(size, Simd<T>(0), f, [](Simd<T> a, Simd<T> b) HWY_ATTR { return a + b; }));
}

/// Two sums over a row at once: f(i, n, a, b) adds to both, zero in lanes from n on.
template <class T, class F>
HWY_INLINE std::pair<T, T> sum_row_twice(int64_t size, F f) {
  using S = Simd<T>;
  constexpr int64_t lanes = S::lanes();
  S a0 = 0, b0 = 0, a1 = 0, b1 = 0;
  int64_t i = 0;
  for (; i + 2 * lanes <= size; i += 2 * lanes) {
    f(i, lanes, a0, b0);
    f(i + lanes, lanes, a1, b1);
  }
  for (; i < size; i += lanes) f(i, size - i, a0, b0);
  return {sum(a0 + a1), sum(b0 + b1)};
}

/// The largest f(i, n) over a row, NaN if one is; lanes from n on must be -infinity.
template <class T, class F>
HWY_INLINE T max_row(int64_t size, F f) {
  const Simd<T> lowest = -std::numeric_limits<T>::infinity();
  return max_of(fold_row<T>(size, lowest, f, [](Simd<T> a, Simd<T> b) HWY_ATTR { return max(a, b); }));
}

constexpr int64_t part_rows = 64;                 // rows that are added up before they meet a column's total: fewer roundings
constexpr int64_t column_block = 1 << 14;         // elements of a block of columns: what a second pass finds in the cache
constexpr int64_t most_block_columns = 1 << 10;   // room for one number per column on the stack
constexpr int64_t fewest_block_columns = 1 << 8;  // ... and what makes a block: longer columns are taken as wide as possible instead

/// For kernels that need several passes along one axis, in parallel: calls rows(row) when the axis is the last, else
/// columns(offset of the first element, width) for blocks of at most most_block_columns columns.
template <class Rows, class Columns>
void along_axis(AxisView v, Rows rows, Columns columns) {
  if (v.outer * v.length * v.inner == 0) return;
  if (v.inner == 1) {
    parallel_for(v.outer, grain_for(v.length, heavy_grain), [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t row = begin; row < end; ++row) rows(row);
    });
    return;
  }
  const int64_t fitting = column_block / v.length >= fewest_block_columns ? column_block / v.length : most_block_columns;
  const int64_t width = std::min({v.inner, fitting, most_block_columns});
  const int64_t blocks = ceil_div(v.inner, width);
  parallel_for(v.outer * blocks, grain_for(v.length * width, heavy_grain), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t column = item % blocks * width;
      columns(item / blocks * v.length * v.inner + column, std::min(width, v.inner - column));
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#endif  // WEFT_CORE_CPU_LOOPS_INL_H_
