// Sorting along an axis. A value becomes an unsigned key of the same order; keys are sorted together with the places they come from, so
// every two entries differ, and any sort is a stable one.
#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "weft/core/axis.h"
#include "weft/core/cpu/parallel.h"
#include "weft/core/kernels.h"

namespace weft::cpu {
namespace {

template <class T>
struct Key;
template <>
struct Key<float> {
  using type = uint32_t;
};
template <>
struct Key<double> {
  using type = uint64_t;
};
template <>
struct Key<int64_t> {
  using type = uint64_t;
};

// Keys compare like values, reversed when `descending`; NaN is last either way, and -0 equals 0.
template <class T>
typename Key<T>::type key_of(T value, bool descending) {
  using Unsigned = typename Key<T>::type;
  constexpr auto sign = Unsigned{1} << (8 * sizeof(T) - 1);
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(value)) return ~Unsigned{0};
    value += T(0);
  }
  auto bits = std::bit_cast<Unsigned>(value);
  if (std::is_floating_point_v<T> && (bits & sign) != 0) {
    bits = ~bits;  // of two negative numbers the one with more bits is less
  } else {
    bits ^= sign;
  }
  return descending ? ~bits : bits;
}

template <class T>
struct Entry {
  typename Key<T>::type key;
  std::conditional_t<sizeof(T) == 4, uint32_t, int64_t> place;
  bool operator<(const Entry& other) const { return key != other.key ? key < other.key : place < other.place; }
};

template <class T>
void sort_lines(Tensor& values, Tensor& indices, const Tensor& x, int axis, bool descending) {
  const AxisView v = view_along(x.shape(), axis);
  const int64_t size = v.length, inner = v.inner, kept = values.shape()[axis];
  WEFT_CHECK(sizeof(T) == 8 || size < (int64_t{1} << 32), "sort: lines of at most 2^32 elements, got {}", size);
  const T* in = x.data<T>();
  T* out = values.data<T>();
  int64_t* where = indices.data<int64_t>();
  if (kept == 0) return;
  constexpr int64_t sort_grain = 1 << 11;  // elements worth a thread
  parallel_for(v.outer * inner, grain_for(size, sort_grain), [&](int64_t begin, int64_t end) {
    std::vector<Entry<T>> entries(static_cast<size_t>(size));
    using Place = decltype(Entry<T>::place);
    for (int64_t l = begin; l < end; ++l) {
      const T* line = in + l / inner * size * inner + l % inner;
      for (int64_t i = 0; i < size; ++i) entries[static_cast<size_t>(i)] = {key_of(line[i * inner], descending), static_cast<Place>(i)};
      if (kept < size) std::nth_element(entries.begin(), entries.begin() + kept, entries.end());
      std::sort(entries.begin(), entries.begin() + kept);
      for (int64_t i = 0; i < kept; ++i) {
        const auto place = static_cast<int64_t>(entries[static_cast<size_t>(i)].place);
        const int64_t e = (l / inner * kept + i) * inner + l % inner;
        out[e] = line[place * inner];
        where[e] = place;
      }
    }
  });
}

}  // namespace

void sort(Tensor& values, Tensor& indices, const Tensor& x, int axis, bool descending) {
  if (x.dtype() == DType::int64) return sort_lines<int64_t>(values, indices, x, axis, descending);
  dispatch_float(x.dtype(), "sort", [&]<class T>() { sort_lines<T>(values, indices, x, axis, descending); });
}

void topk(Tensor& values, Tensor& indices, const Tensor& x, int axis, bool largest) { sort(values, indices, x, axis, largest); }

}  // namespace weft::cpu
