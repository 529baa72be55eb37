// Reductions over any set of axes. Sums are taken in pieces that depend on the shape alone, so results are the same for any number of
// threads; the pieces are small enough that float32 sums of hundreds of millions of elements keep their precision.
#include "weft/core/kernels.h"

#include "weft/core/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/core/cpu/reduce.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "weft/core/axis.h"
#include "weft/core/cpu/loops-inl.h"
#include "weft/core/cpu/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t piece_size = 1 << 15;  // elements behind one partial result: what a second pass still finds in the L2 cache
constexpr int64_t tile_width = 1 << 10;  // columns that are reduced side by side
constexpr int64_t fold_width = 256;      // narrower rows are reduced several at a time

struct Sum {
  static constexpr const char* op = "sum";
  static constexpr double identity = 0;
  template <class V>
  static HWY_INLINE V join(V a, V b) {
    return a + b;
  }
  template <class T>
  static HWY_INLINE T lanes(Simd<T> a) {
    return sum(a);
  }
};
struct Max {
  static constexpr const char* op = "max";
  static constexpr double identity = -std::numeric_limits<double>::infinity();
  template <class V>
  static HWY_INLINE V join(V a, V b) {
    return max(a, b);
  }
  template <class T>
  static HWY_INLINE T lanes(Simd<T> a) {
    return max_of(a);
  }
};
struct Min {
  static constexpr const char* op = "min";
  static constexpr double identity = std::numeric_limits<double>::infinity();
  template <class V>
  static HWY_INLINE V join(V a, V b) {
    return min(a, b);
  }
  template <class T>
  static HWY_INLINE T lanes(Simd<T> a) {
    return min_of(a);
  }
};
struct LogSumExp {
  static constexpr const char* op = "logsumexp";
  static constexpr double identity = -std::numeric_limits<double>::infinity();
};

// ---- one piece ------------------------------------------------------------------------------------------------------------------------

// Pairwise: halves of a long row are joined, so an element passes few roundings on its way into a sum.
template <class Kind, class T>
HWY_NOINLINE Simd<T> fold_pairwise(Kind kind, const T* x, int64_t size) {
  constexpr int64_t block = std::max<int64_t>(256, 64 * Simd<T>::lanes());
  constexpr T identity = static_cast<T>(Kind::identity);
  if (size <= block) {
    const auto load = [&](int64_t i, int64_t n) HWY_ATTR { return Simd<T>::load_n(x + i, n, identity); };
    return fold_row<T>(size, Simd<T>(identity), load, [](Simd<T> a, Simd<T> b) HWY_ATTR { return Kind::join(a, b); });
  }
  const int64_t half = round_up(size / 2, block);
  return Kind::join(fold_pairwise(kind, x, half), fold_pairwise(kind, x + half, size - half));
}

template <class Kind, class T>
T reduce_row(Kind kind, const T* x, int64_t size) {
  return Kind::lanes(fold_pairwise(kind, x, size));
}

// y[0:width] joined with one row.
template <class Kind, class T>
HWY_NOINLINE void join_row(Kind, T* y, const T* x, int64_t width) {
  using S = Simd<T>;
  each_vector<T>(width, [&](int64_t i, int64_t n) HWY_ATTR { Kind::join(S::load_n(y + i, n), S::load_n(x + i, n)).store_n(y + i, n); });
}

template <class Kind, class T>
HWY_NOINLINE void reduce_columns(Kind kind, T* y, const T* x, int64_t rows, int64_t stride, int64_t width) {
  using S = Simd<T>;
  std::memcpy(y, x, static_cast<size_t>(width) * sizeof(T));
  int64_t r = 1;
  for (; r + 4 <= rows; r += 4) {  // four rows at a time: one load and one store of y for four of x
    const T *x0 = x + r * stride, *x1 = x0 + stride, *x2 = x1 + stride, *x3 = x2 + stride;
    each_vector<T>(width, [&](int64_t i, int64_t n) HWY_ATTR {
      const S ab = Kind::join(S::load_n(x0 + i, n), S::load_n(x1 + i, n));
      const S cd = Kind::join(S::load_n(x2 + i, n), S::load_n(x3 + i, n));
      Kind::join(S::load_n(y + i, n), Kind::join(ab, cd)).store_n(y + i, n);
    });
  }
  for (; r < rows; ++r) join_row(kind, y, x + r * stride, width);
}

// Rows narrower than a few vectors, one after the other in memory: k of them form one wide row, whose parts are joined at the end.
template <class Kind, class T>
void reduce_narrow_columns(Kind kind, T* y, const T* x, int64_t rows, int64_t width) {
  T wide[fold_width];
  const int64_t k = std::min(rows, fold_width / width);
  reduce_columns(kind, wide, x, rows / k, k * width, k * width);
  join_row(kind, wide, x + rows / k * k * width, rows % k * width);
  for (int64_t part = 1; part < k; ++part) join_row(kind, wide, wide + part * width, width);
  std::memcpy(y, wide, static_cast<size_t>(width) * sizeof(T));
}

// log(sum(exp(x))) = m + log(sum(exp(x - m))); an infinite or NaN maximum is the result itself.
template <class T>
HWY_INLINE Simd<T> finish_logsumexp(Simd<T> m, Simd<T> s) {
  return select(abs(m) < std::numeric_limits<T>::infinity(), m + log(s), m);
}

template <class T>
HWY_NOINLINE T reduce_row(LogSumExp, const T* x, int64_t size) {
  using S = Simd<T>;
  const T m = reduce_row(Max(), x, size);
  if (!(std::fabs(m) < std::numeric_limits<T>::infinity())) return m;
  const T s = sum_row<T>(
      size, [&](int64_t i, int64_t n) HWY_ATTR { return exp_nonpositive(S::load_n(x + i, n, -std::numeric_limits<T>::infinity()) - m); });
  return m + std::log(s);
}

template <class T>
void reduce_columns(LogSumExp, T* y, const T* x, int64_t rows, int64_t stride, int64_t width) {
  using S = Simd<T>;
  reduce_columns(Max(), y, x, rows, stride, width);
  T sums[tile_width] = {}, part[tile_width] = {};
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = x + r * stride;
    each_vector<T>(width, [&](int64_t i, int64_t n) HWY_ATTR {
      (S::load_n(part + i, n) + exp_nonpositive(S::load_n(row + i, n) - S::load_n(y + i, n))).store_n(part + i, n);
    });
    if (r % part_rows != part_rows - 1 && r + 1 < rows) continue;
    for (int64_t i = 0; i < width; ++i) sums[i] += std::exchange(part[i], T(0));
  }
  each_vector<T>(width,
                 [&](int64_t i, int64_t n) HWY_ATTR { finish_logsumexp(S::load_n(y + i, n), S::load_n(sums + i, n)).store_n(y + i, n); });
}

template <class T>
void reduce_narrow_columns(LogSumExp kind, T* y, const T* x, int64_t rows, int64_t width) {
  reduce_columns(kind, y, x, rows, width, width);
}

// ---- one axis, then any set ---------------------------------------------------------------------------------------------------------

// Rows shorter than a vector or two, many of them: turned around a block at a time, so that every lane works on a row of its own.
template <class Kind, class T>
void reduce_short_rows(Kind kind, T* y, const T* x, int64_t rows, int64_t size) {
  const int64_t blocks = ceil_div(rows, short_rows);
  parallel_for(blocks, piece_size / (short_rows * size) + 1, [&](int64_t begin, int64_t end) HWY_ATTR {
    T turned[short_size * short_rows];
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * short_rows, count = std::min(short_rows, rows - first);
      transpose(turned, x + first * size, count, size);
      reduce_columns(kind, y + first, turned, size, count, count);
    }
  });
}

// [outer, length, inner] -> [outer, inner]. A long axis is cut into pieces of fixed size; their results are one more axis to reduce.
template <class Kind, class T>
void reduce_axis(Kind kind, T* y, const T* x, AxisView v) {
  if (v.inner == 1 && v.length <= short_size && v.outer >= short_size) return reduce_short_rows(kind, y, x, v.outer, v.length);
  const int64_t width = std::min(v.inner, tile_width);
  const int64_t tiles = ceil_div(v.inner, width);
  const int64_t wanted = std::max<int64_t>(1, v.length * width / piece_size);
  const int64_t rows = ceil_div(v.length, wanted), pieces = ceil_div(v.length, rows);
  Tensor partial;
  T* to = y;
  if (pieces > 1) {
    partial = empty({v.outer, pieces, v.inner}, {.dtype = dtype_of<T>, .device = Device::cpu()});
    to = partial.data<T>();
  }
  const int64_t grain = piece_size / (rows * width) + 1;
  parallel_for(v.outer * pieces * tiles, grain, [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t row = item / tiles, column = item % tiles * width;
      const int64_t first = row % pieces * rows, size = std::min(rows, v.length - first);
      const T* from = x + (row / pieces * v.length + first) * v.inner + column;
      T* result = to + row * v.inner + column;
      if (v.inner == 1) {
        *result = reduce_row(kind, from, size);
      } else if (2 * v.inner <= fold_width) {
        reduce_narrow_columns(kind, result, from, size, v.inner);
      } else {
        reduce_columns(kind, result, from, size, v.inner, std::min(width, v.inner - column));
      }
    }
  });
  if (pieces > 1) reduce_axis(kind, y, static_cast<const T*>(to), {v.outer, pieces, v.inner});
}

template <class Kind>
void reduce_axis(Kind kind, Tensor& y, const Tensor& x, AxisView v) {
  dispatch_float(x.dtype(), Kind::op, [&]<class T>() HWY_ATTR { reduce_axis(kind, y.data<T>(), x.data<T>(), v); });
}
void sum_axis(Tensor& y, const Tensor& x, AxisView v) { reduce_axis(Sum(), y, x, v); }
void max_axis(Tensor& y, const Tensor& x, AxisView v) { reduce_axis(Max(), y, x, v); }
void min_axis(Tensor& y, const Tensor& x, AxisView v) { reduce_axis(Min(), y, x, v); }
void logsumexp_axis(Tensor& y, const Tensor& x, AxisView v) { reduce_axis(LogSumExp(), y, x, v); }

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::cpu {

HWY_EXPORT(sum_axis);
HWY_EXPORT(max_axis);
HWY_EXPORT(min_axis);
HWY_EXPORT(logsumexp_axis);

namespace {

// One group of axes after the other, the longest first: what remains to be read shrinks fastest.
template <class ReduceAxis>
void reduce(ReduceAxis reduce_axis, double of_nothing, Tensor& y, const Tensor& x, AxisSet axes) {
  if (x.numel() == 0) return fill(y, of_nothing);
  AxisGroups groups(x.shape(), axes);
  int group = groups.longest_reduced();
  if (group < 0) return copy_bytes(y.raw(), y.device(), x.raw(), x.device(), x.bytes());
  Tensor from = x;
  while (group >= 0) {
    const AxisView v = groups.view(group);
    groups.remove(group);
    group = groups.longest_reduced();
    Tensor to = group < 0 ? y : empty({v.outer, v.inner}, {.dtype = x.dtype(), .device = Device::cpu()});
    reduce_axis(to, from, v);
    from = to;
  }
}

}  // namespace

void sum(Tensor& y, const Tensor& x, AxisSet axes) { reduce(HWY_DYNAMIC_DISPATCH(sum_axis), 0, y, x, axes); }
void reduce_max(Tensor& y, const Tensor& x, AxisSet axes) {
  reduce(HWY_DYNAMIC_DISPATCH(max_axis), -std::numeric_limits<double>::infinity(), y, x, axes);
}
void reduce_min(Tensor& y, const Tensor& x, AxisSet axes) {
  reduce(HWY_DYNAMIC_DISPATCH(min_axis), std::numeric_limits<double>::infinity(), y, x, axes);
}
void logsumexp(Tensor& y, const Tensor& x, AxisSet axes) {
  reduce(HWY_DYNAMIC_DISPATCH(logsumexp_axis), -std::numeric_limits<double>::infinity(), y, x, axes);
}

}  // namespace weft::cpu
#endif  // HWY_ONCE
