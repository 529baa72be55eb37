// What the CPU attention kernels see: raw pointers with strides, sizes, and who sees whom.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "weft/attention/kernels.h"
#include "weft/core/rounding.h"

namespace weft::cpu {

/// Queries are handled in strips of this many rows, keys in blocks of this many columns, on every instruction set.
inline constexpr int64_t strip_rows = 6;
inline constexpr int64_t block_keys = 64;

/// Rows of q, k, v, o: elements of a row are adjacent, everything else is a stride.
template <class T>
struct RowArray {
  T* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;
  T* at(int64_t b, int64_t h, int64_t i) const { return data + b * batch + h * head + i * row; }
};

/// An array over (batch, head, query, key): mask, bias, weights. Stride 0 on broadcast axes.
template <class T>
struct PairArray {
  T* data = nullptr;
  int64_t batch = 0, head = 0, row = 0, key = 0;
  explicit operator bool() const { return data != nullptr; }
  T* at(int64_t b, int64_t h, int64_t i, int64_t j) const { return data + b * batch + h * head + i * row + j * key; }
};

template <class T>
struct Problem {
  int64_t B = 0, H = 0, Hkv = 0, N = 0, M = 0, D = 0, Dv = 0;
  T scale = 1;
  int64_t left = 0, right = 0;
  RowArray<const T> q, k, v;
  PairArray<const bool> mask;
  PairArray<const T> bias;
  const int64_t* key_lengths = nullptr;
  // Dropout: explicit multipliers, or drawn ones: 0 for words below the threshold, else keep_scale.
  PairArray<const T> multiplier;
  bool draws = false;
  uint64_t threshold = 0;
  T keep_scale = 1;
  RandomKey key;

  bool drops() const { return multiplier || draws; }
  int64_t kv_head(int64_t h) const { return h / (H / Hkv); }
  int64_t keys_of(int64_t b) const { return key_lengths ? std::clamp<int64_t>(key_lengths[b], 0, M) : M; }
  /// Query i sees keys [first_key, end_key(b)) as far as window, causality and padding go; both grow with i.
  int64_t first_key(int64_t i) const { return std::max<int64_t>(0, i + (M - N) - left); }
  int64_t end_key(int64_t b, int64_t i) const { return std::min(keys_of(b), i + (M - N) + right + 1); }
  /// Key j is seen by queries [first_query, end_query), as far as the window goes.
  int64_t first_query(int64_t j) const { return std::max<int64_t>(0, j - (M - N) - right); }
  int64_t end_query(int64_t j) const { return std::min(N, j - (M - N) + left + 1); }
};

/// One block of keys as a strip of queries sees it: columns [first, end) of the block are visible to some row.
struct Columns {
  int64_t first = 0, end = 0;
  bool empty() const { return first >= end; }
};

template <class T>
Columns visible_columns(const Problem<T>& p, int64_t b, int64_t first_row, int64_t last_row, int64_t j0) {
  return {std::max(p.first_key(first_row) - j0, int64_t{0}), std::min(p.end_key(b, last_row) - j0, block_keys)};
}

/// The arrays of tensors: q, k, v, o and their gradients in either layout; [B, H, N, M] with broadcasting, or compact weights.
template <class T>
RowArray<T> row_array(Tensor& x, AttentionLayout layout);
template <class T>
RowArray<const T> row_array(const Tensor& x, AttentionLayout layout);
template <class T>
PairArray<const T> pair_array(const Tensor& x /*?*/);
template <class T>
PairArray<T> pair_array(Tensor& x);
/// Weights or their gradient: dense, or compact (only entries of the window may be touched then).
template <class T>
PairArray<T> weights_array(const Tensor& x /*?*/, const Problem<std::remove_const_t<T>>& p, bool compact);
template <class T>
Problem<T> make_problem(const Tensor& q, const Tensor& k, const Tensor& v /*?*/, const AttentionScope& scope);

}  // namespace weft::cpu
