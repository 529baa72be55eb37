// What happens to a strip of scores between the two products: bias, mask, window; and the dropout multipliers of a row.
#if defined(WEFT_ATTENTION_CPU_SCORES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WEFT_ATTENTION_CPU_SCORES_INL_H_
#undef WEFT_ATTENTION_CPU_SCORES_INL_H_
#else
#define WEFT_ATTENTION_CPU_SCORES_INL_H_
#endif

#include <limits>

#include "weft/attention/cpu/tile-inl.h"
#include "weft/core/cpu/philox-inl.h"

HWY_BEFORE_NAMESPACE();
namespace weft::cpu::HWY_NAMESPACE {

/// Calls f(local j, value) for elements [first, end) of a row of `array` that starts at key j0.
template <class T, class F>
HWY_INLINE void for_each_pair(const PairArray<T>& array, int64_t b, int64_t h, int64_t i, int64_t j0, Columns span, F&& f) {
  T* row = array.at(b, h, i, j0);
  if (array.key == 1) {
    for (int64_t j = span.first; j < span.end; ++j) f(j, row[j]);
  } else {
    for (int64_t j = span.first; j < span.end; ++j) f(j, row[j * array.key]);
  }
}

/// Columns of the block that row i itself sees.
template <class T>
HWY_INLINE Columns row_columns(const Problem<T>& p, int64_t b, int64_t i, int64_t j0, Columns strip) {
  const Columns own = visible_columns(p, b, i, i, j0);
  const int64_t first = std::clamp(own.first, strip.first, strip.end);
  return {first, std::clamp(own.end, first, strip.end)};
}

/// Adds the bias and writes -inf wherever a row sees no key, for rows [i0, i0 + rows) of a strip, in the vectors that hold `strip`.
template <class T>
HWY_INLINE void edit_scores(const Problem<T>& p, int64_t b, int64_t h, int64_t i0, int64_t rows, int64_t j0, Columns strip, T* scores) {
  constexpr T hidden = -std::numeric_limits<T>::infinity();
  const int64_t begin = strip.first / vector_lanes<T> * vector_lanes<T>, end = round_up(strip.end, vector_lanes<T>);
  const bool interior = p.first_key(i0 + rows - 1) <= j0 + begin && p.end_key(b, i0) >= j0 + end;
  if (interior && !p.mask && !p.bias) return;
  for (int64_t r = 0; r < rows; ++r) {
    T* s = scores + r * block_keys;
    const Columns own = row_columns(p, b, i0 + r, j0, strip);
    if (p.bias) for_each_pair(p.bias, b, h, i0 + r, j0, own, [s](int64_t j, T bias) { s[j] += bias; });
    if (p.mask) for_each_pair(p.mask, b, h, i0 + r, j0, own, [s](int64_t j, bool visible) { s[j] = visible ? s[j] : hidden; });
    std::fill(s + begin, s + own.first, hidden);
    std::fill(s + own.end, s + end, hidden);
  }
}

/// Dropout multipliers of row i for columns [first, end) of the block at j0: explicit ones, or drawn from the stream.
template <class T>
HWY_NOINLINE void row_multipliers(const Problem<T>& p, int64_t b, int64_t h, int64_t i, int64_t j0, Columns span, T* out) {
  if (p.multiplier) return for_each_pair(p.multiplier, b, h, i, j0, span, [out](int64_t j, T m) { out[j] = m; });
  uint32_t words[block_keys + 32];  // up to 3 words before the first, and whole vectors of 8 blocks of 4
  const auto element = static_cast<uint64_t>(((b * p.H + h) * p.N + i) * p.M + j0 + span.first);
  const auto skipped = static_cast<int64_t>(element % 4);
  random_blocks(words, p.key, element / 4, round_up(ceil_div(skipped + span.end - span.first, 4), 8));
  const uint32_t* word = words + skipped - span.first;
  for (int64_t j = span.first; j < span.end; ++j) out[j] = word[j] >= p.threshold ? p.keep_scale : T(0);
}

}  // namespace weft::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
