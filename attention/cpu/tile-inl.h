// The register tile and the packings that feed it, for the instruction set being compiled (Highway's foreach_target).
//
//     product: c[R][n] (+)= a[R][k] b[k][n]      R rows x up to panel_vectors vectors of accumulators stay in registers
//
// a is read one element at a time (any strides), b as whole vectors from panels of panel_width columns, c row by row. Six rows of four
// vectors (two where there are 16 registers) keep both multiply-add ports busy while every loaded vector is used six times.
#if defined(WEFT_ATTENTION_CPU_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WEFT_ATTENTION_CPU_TILE_INL_H_
#undef WEFT_ATTENTION_CPU_TILE_INL_H_
#else
#define WEFT_ATTENTION_CPU_TILE_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "weft/attention/cpu/problem.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
using Tag = hn::ScalableTag<T>;
constexpr int64_t panel_vectors = HWY_MAX_BYTES == 64 ? 4 : 2;
template <class T>
constexpr int64_t vector_lanes = int64_t{HWY_LANES(T)};
template <class T>
constexpr int64_t panel_width = panel_vectors* vector_lanes<T>;
static_assert(block_keys % panel_width<float> == 0 && block_keys % panel_width<double> == 0);

template <int R, int V, class T>
HWY_NOINLINE void product(T* HWY_RESTRICT c, int64_t ldc, const T* HWY_RESTRICT a, int64_t a_row, int64_t a_k, const T* HWY_RESTRICT b,
                          int64_t k, bool add) {
  const Tag<T> d;
  hn::Vec<Tag<T>> sums[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sums[r][v] = add ? hn::LoadU(d, c + r * ldc + v * vector_lanes<T>) : hn::Zero(d);
  }
  for (int64_t i = 0; i < k; ++i) {
    hn::Vec<Tag<T>> row[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) row[v] = hn::Load(d, b + v * vector_lanes<T>);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const auto x = hn::Set(d, a[r * a_row]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[r][v] = hn::MulAdd(x, row[v], sums[r][v]);
    }
    a += a_k;
    b += panel_width<T>;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) hn::StoreU(sums[r][v], d, c + r * ldc + v * vector_lanes<T>);
  }
}

/// product with a run-time number of vectors, 1 .. panel_vectors.
template <int R, class T>
HWY_INLINE void product(int64_t vectors, T* c, int64_t ldc, const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t k, bool add) {
  switch (vectors) {
    case 1:
      return product<R, 1>(c, ldc, a, a_row, a_k, b, k, add);
    case 2:
      return product<R, 2>(c, ldc, a, a_row, a_k, b, k, add);
#if HWY_MAX_BYTES == 64
    case 3:
      return product<R, 3>(c, ldc, a, a_row, a_k, b, k, add);
    default:
      return product<R, 4>(c, ldc, a, a_row, a_k, b, k, add);
#else
    default:
      return;
#endif
  }
}

/// c[R][width] (+)= a[R][k] b[k][width] with b in panels of `height` rows, from row `b_row` on; width in whole vectors.
template <int R, class T>
HWY_INLINE void product_panels(int64_t width, T* c, int64_t ldc, const T* a, int64_t a_row, int64_t a_k, const T* panels, int64_t height,
                               int64_t b_row, int64_t k, bool add) {
  for (int64_t e = 0; e < width; e += panel_width<T>) {
    const int64_t vectors = std::min(panel_vectors, (width - e) / vector_lanes<T>);
    product<R>(vectors, c + e, ldc, a, a_row, a_k, panels + e * height + b_row * panel_width<T>, k, add);
  }
}

/// Products of one strip of rows with one block of keys: s[6][block_keys] = a[6][depth] columns, for the vectors that hold columns
/// [first, end). `a` is packed by pack_rows, `columns` by pack_columns.
template <class T>
HWY_INLINE void strip_scores(T* s, const T* a, int64_t a_row, const T* columns, int64_t depth, Columns span) {
  const int64_t end = ceil_div(span.end, vector_lanes<T>);
  for (int64_t v = span.first / vector_lanes<T>; v < end;) {
    const int64_t within = v % panel_vectors, vectors = std::min(panel_vectors - within, end - v);
    product<strip_rows>(vectors, s + v * vector_lanes<T>, block_keys, a, a_row, 1,
                        columns + (v / panel_vectors) * panel_width<T> * depth + within * vector_lanes<T>, depth, false);
    v += vectors;
  }
}

// ---- packing: contiguous copies in the order in which product reads them -----------------------------------------------------------

/// A block of keys with depth outermost, in panels: out[panel][depth][panel_width]. Keys from `rows` on are zero.
template <class T>
void pack_columns(T* HWY_RESTRICT out, const T* HWY_RESTRICT src, int64_t stride, int64_t rows, int64_t depth) {
  constexpr int64_t step = HWY_TARGET == HWY_SCALAR ? 1 : 16 / int64_t{sizeof(T)};  // keys and elements of one small transpose
  for (int64_t j = 0; j < block_keys; j += step) {
    T* panel = out + (j / panel_width<T>)*panel_width<T> * depth + j % panel_width<T>;
    int64_t e = 0;
#if HWY_TARGET != HWY_SCALAR
    const hn::FixedTag<T, size_t{step}> d;
    for (; j + step <= rows && e + step <= depth; e += step) {
      const T* in = src + j * stride + e;
      T* to = panel + e * panel_width<T>;
      if constexpr (step == 4) {
        const auto r0 = hn::LoadU(d, in), r1 = hn::LoadU(d, in + stride), r2 = hn::LoadU(d, in + 2 * stride),
                   r3 = hn::LoadU(d, in + 3 * stride);
        const auto low02 = hn::InterleaveLower(d, r0, r2), low13 = hn::InterleaveLower(d, r1, r3);
        const auto high02 = hn::InterleaveUpper(d, r0, r2), high13 = hn::InterleaveUpper(d, r1, r3);
        hn::Store(hn::InterleaveLower(d, low02, low13), d, to);
        hn::Store(hn::InterleaveUpper(d, low02, low13), d, to + panel_width<T>);
        hn::Store(hn::InterleaveLower(d, high02, high13), d, to + 2 * panel_width<T>);
        hn::Store(hn::InterleaveUpper(d, high02, high13), d, to + 3 * panel_width<T>);
      } else {
        const auto r0 = hn::LoadU(d, in), r1 = hn::LoadU(d, in + stride);
        hn::Store(hn::InterleaveLower(d, r0, r1), d, to);
        hn::Store(hn::InterleaveUpper(d, r0, r1), d, to + panel_width<T>);
      }
    }
#endif
    for (; e < depth; ++e)
      for (int64_t l = 0; l < step; ++l) panel[e * panel_width<T> + l] = j + l < rows ? src[(j + l) * stride + e] : T(0);
  }
}

/// Rows times `scale` in panels of columns: out[panel][height][panel_width]. Rows from `rows` on and the rest of the last vector are zero.
template <class T>
void pack_panels(T* HWY_RESTRICT out, const T* HWY_RESTRICT src, int64_t stride, int64_t rows, int64_t width, int64_t height, T scale) {
  const Tag<T> d;
  const auto factor = hn::Set(d, scale);
  for (int64_t i = 0; i < height; ++i) {
    const T* in = src + i * stride;
    for (int64_t e = 0; e < width; e += vector_lanes<T>) {
      T* to = out + (e / panel_width<T>)*panel_width<T> * height + i * panel_width<T> + e % panel_width<T>;
      if (i >= rows) {
        hn::Store(hn::Zero(d), d, to);
      } else if (e + vector_lanes<T> <= width) {
        hn::Store(hn::Mul(factor, hn::LoadU(d, in + e)), d, to);
      } else {
        for (int64_t l = 0; l < vector_lanes<T>; ++l) to[l] = e + l < width ? in[e + l] * scale : T(0);
      }
    }
  }
}

/// Rows times `scale`, one after the other; `height` of them, those from `rows` on are zero. What product reads as `a`.
template <class T>
void pack_rows(T* HWY_RESTRICT out, const T* HWY_RESTRICT src, int64_t stride, int64_t rows, int64_t width, int64_t height, T scale) {
  for (int64_t i = 0; i < height; ++i, out += width) {
    const T* in = src + i * stride;
    if (i < rows) {
      for (int64_t e = 0; e < width; ++e) out[e] = in[e] * scale;
    } else {
      std::fill_n(out, width, T(0));
    }
  }
}

/// Fetches elements [0, width) of rows [begin, end) into cache: a share of what the next tile packs, while this one is computed.
template <class T>
HWY_INLINE void prefetch_rows(const T* rows, int64_t stride, int64_t width, int64_t begin, int64_t end) {
  for (int64_t j = begin; j < end; ++j)
    for (int64_t e = 0; e < width; e += 64 / int64_t{sizeof(T)}) hwy::Prefetch(rows + j * stride + e);
}

// ---- exp -----------------------------------------------------------------------------------------------------------------------------

/// e^x for x <= 88 (float32) or 709 (float64), to 1 ulp of e^x * max(1, |x|); exact 0 from about -88 (-709) down, NaN stays NaN.
/// Softmax never needs more, and does without the branches and the reduction in two steps of a general exp.
template <class T>
HWY_INLINE hn::Vec<Tag<T>> exp_bounded(hn::Vec<Tag<T>> x) {
  // x log2(e) = n + f with integer n and |f| <= 1/2; adding `shift` rounds, and leaves n + exponent bias in the lowest bits.
  constexpr bool single = sizeof(T) == 4;
  constexpr int mantissa = single ? 23 : 52, exponent_bias = single ? 127 : 1023;
  constexpr T log2e = T(1.44269504088896341), lowest = T(-exponent_bias) * T(0.693147180559945309);
  constexpr T shift = T(int64_t{3} << (mantissa - 1)) + T(exponent_bias);
  const Tag<T> d;
  const auto least = hn::Set(d, lowest);
  const auto clamped = hn::IfThenElse(hn::Lt(x, least), least, x);  // NaN stays
  const auto shifted = hn::MulAdd(clamped, hn::Set(d, log2e), hn::Set(d, shift));
  const auto f = hn::MulSub(clamped, hn::Set(d, log2e), hn::Sub(shifted, hn::Set(d, shift)));
  const auto two_to_n = hn::BitCast(d, hn::ShiftLeft<mantissa>(hn::BitCast(hn::RebindToSigned<Tag<T>>(), shifted)));
  // 2^f by the minimax polynomial of degree 6 (relative error 3e-9) or 11 (2e-17).
  const auto horner = [&](T leading, auto... c) {
    auto y = hn::Set(d, leading);
    ((y = hn::MulAdd(y, f, hn::Set(d, T(c)))), ...);
    return y;
  };
  if constexpr (single) {
    return hn::Mul(two_to_n,
                   horner(1.5594677015e-4f, 1.3406643438e-3, 9.6176929761e-3, 5.5503105512e-2, 2.4022652783e-1, 6.9314721497e-1, 1.0));
  } else {
    return hn::Mul(two_to_n, horner(4.0780717860928704165e-10, 7.0725703945407994337e-9, 1.0180647660573069343e-7, 1.3215442675452855182e-6,
                                    1.525272738518977478e-5, 1.5403530441571850099e-4, 1.333355815343996974e-3, 9.6181291076070026171e-3,
                                    5.5504108664790394528e-2, 2.4022650695910098006e-1, 6.9314718055994569675e-1, 1.0));
  }
}

}  // namespace weft::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
