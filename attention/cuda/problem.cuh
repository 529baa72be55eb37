// What the CUDA attention kernels see, passed to them by value: raw pointers with strides, sizes, and who sees whom.
#pragma once

#include "weft/attention/kernels.h"
#include "weft/core/cuda/common.cuh"

namespace weft::cuda {

/// Rows of q, k, v, o: elements of a row are adjacent, everything else is a stride.
template <class T>
struct RowArray {
  T* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;
  __device__ T* at(int b, int h, int i) const { return data + b * batch + h * head + i * row; }
};

/// An array over (batch, head, query, key): mask, bias, weights. Stride 0 on broadcast axes.
template <class T>
struct PairArray {
  T* data = nullptr;
  int64_t batch = 0, head = 0, row = 0, key = 0;
  WEFT_HOST_DEVICE explicit operator bool() const { return data != nullptr; }
  __device__ T* at(int b, int h, int i, int j) const { return data + b * batch + h * head + i * row + j * key; }
};

/// Indices [first, end).
struct Span {
  int first = 0, end = 0;
  WEFT_HOST_DEVICE bool empty() const { return first >= end; }
  /// Does it share an index with [a, b)?
  WEFT_HOST_DEVICE bool meets(int a, int b) const { return (first > a ? first : a) < (end < b ? end : b); }
};

/// For the maximum of scores: NaN makes NaN of the sums, not of the maximum.
struct Higher {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return std::fmax(a, b);
  }
};

/// T: how q, k, v, bias and multipliers are stored. Lengths are below 2^29 and windows cut off at 2^30, so that sums of them are ints.
template <class T>
struct Problem {
  using A = acc_of<T>;
  static constexpr int64_t longest = int64_t{1} << 29, widest = int64_t{1} << 30;

  int B = 0, H = 0, Hkv = 0, N = 0, M = 0, D = 0, Dv = 0;
  A scale = 1;
  int left = 0, right = 0;
  RowArray<const T> q, k, v;
  PairArray<const bool> mask;
  PairArray<const T> bias;
  const int64_t* key_lengths = nullptr;
  // Dropout: explicit multipliers, or drawn ones: 0 for words below the threshold, else keep_scale.
  PairArray<const T> multiplier;
  bool draws = false;
  uint64_t threshold = 0;
  A keep_scale = 1;
  RandomKey key;

  __device__ bool drops() const { return draws || multiplier; }
  __device__ int kv_head(int h) const { return h / (H / Hkv); }
  __device__ int keys_of(int b) const { return key_lengths == nullptr ? M : static_cast<int>(std::clamp<int64_t>(key_lengths[b], 0, M)); }

  /// Of query i in lse and delta [B, H, N].
  __device__ int64_t row_index(int b, int h, int i) const { return (static_cast<int64_t>(b) * H + h) * N + i; }

  // ---- the window, causality and padding: which tiles need a visit ---------------------------------------------------------------------

  /// Query i sees keys [first_key(i), end_key(i, keys_of(b))) as far as these go; both grow with i. The last query's place is the last key.
  __device__ int first_key(int i) const { return std::max(0, i + (M - N) - left); }
  __device__ int end_key(int i, int keys) const { return std::min(keys, i + (M - N) + right + 1); }
  /// Keys that some query of [i0, i1) sees.
  __device__ Span keys_seen(int i0, int i1, int keys) const { return {first_key(i0), end_key(std::min(i1, N) - 1, keys)}; }
  /// Queries that see some key of [j0, j1).
  __device__ Span queries_seeing(int j0, int j1, int keys) const {
    if (j0 >= keys) return {};
    return {std::max(0, j0 - (M - N) - right), std::min(N, std::min(j1, keys) - (M - N) + left)};
  }
  /// Does every query of [i0, i1) see every key of [j0, j1), as far as these go? Queries from N on do not count, keys from M on are not
  /// seen.
  __device__ bool interior(int i0, int i1, int j0, int j1, int keys) const {
    return first_key(std::min(i1, N) - 1) <= j0 && j1 <= end_key(i0, keys);
  }
  /// Are scores of interior tiles just scale q . k?
  __device__ bool edits() const { return mask || bias; }

  // ---- one pair: i and j may lie outside [0, N) and [0, M) ------------------------------------------------------------------------------

  __device__ bool in_window(int i, int j, int keys) const { return i < N && j >= first_key(i) && j < end_key(i, keys); }
  /// The mask's word, too; a bias of -infinity hides a pair as well.
  __device__ bool visible(int b, int h, int i, int j, int keys) const { return in_window(i, j, keys) && (!mask || *mask.at(b, h, i, j)); }
  /// Of a visible pair.
  __device__ A bias_at(int b, int h, int i, int j) const { return bias ? widen(*bias.at(b, h, i, j)) : A(0); }
  /// The score of the pair from x = scale q . k; -infinity if it is not visible.
  __device__ A score(int b, int h, int i, int j, int keys, A x) const {
    return visible(b, h, i, j, keys) ? x + bias_at(b, h, i, j) : -std::numeric_limits<A>::infinity();
  }

  // ---- dropout -------------------------------------------------------------------------------------------------------------------------

  /// Multipliers of query i and keys j .. j + K - 1, K a multiple of 4; of no meaning for pairs outside [0, N) x [0, M).
  template <int K>
  __device__ void multipliers(int b, int h, int i, int j, A (&m)[K]) const {
    static_assert(K % 4 == 0);
    if (multiplier) {
      WEFT_UNROLL
      for (int c = 0; c < K; ++c) m[c] = i < N && j + c >= 0 && j + c < M ? widen(*multiplier.at(b, h, i, j + c)) : A(0);
      return;
    }
    const int64_t element = row_index(b, h, i) * M + j;  // may be negative
    const auto skipped = static_cast<unsigned>(element & 3);
    uint32_t words[K + 4] = {};
    WEFT_UNROLL
    for (int c = 0; c < K + 4; c += 4) {
      if (c == K && skipped == 0) break;
      const std::array<uint32_t, 4> block = key.block(static_cast<uint64_t>((element >> 2) + c / 4));
      WEFT_UNROLL
      for (int w = 0; w < 4; ++w) words[c + w] = block[w];
    }
    WEFT_UNROLL
    for (int c = 0; c < K; ++c) {  // word c + skipped, without an index that registers cannot have
      const uint32_t low = (skipped & 1) != 0 ? words[c + 1] : words[c], high = (skipped & 1) != 0 ? words[c + 3] : words[c + 2];
      m[c] = ((skipped & 2) != 0 ? high : low) >= threshold ? keep_scale : A(0);
    }
  }
};

// ---- on the host: problems and arrays from tensors -------------------------------------------------------------------------------------

/// q, k, v, o and their gradients in either layout.
template <class T>
RowArray<T> row_array(const Tensor& x, AttentionLayout layout) {
  T* data = static_cast<T*>(x.raw());
  const Shape& shape = x.shape();
  const int64_t width = shape[3], batch = shape[1] * shape[2] * width;
  if (layout == AttentionLayout::bhnd) return {data, batch, shape[2] * width, width};
  return {data, batch, width, shape[2] * width};
}

/// Anything that broadcasts to [B, H, N, M].
template <class T>
PairArray<T> pair_array(const Tensor& x /*?*/) {
  PairArray<T> array;
  if (!x.defined()) return array;
  array.data = static_cast<T*>(x.raw());
  int64_t* strides[] = {&array.key, &array.row, &array.head, &array.batch};
  int64_t stride = 1;
  for (int i = 0; i < x.rank(); ++i) {
    *strides[i] = x.shape().back(i) == 1 ? 0 : stride;
    stride *= x.shape().back(i);
  }
  return array;
}

template <class T>
Problem<T> make_problem(const Tensor& q, const Tensor& k, const Tensor& v /*?*/, const AttentionScope& scope) {
  const bool heads_first = scope.layout == AttentionLayout::bhnd;
  const int head_axis = heads_first ? 1 : 2, row_axis = heads_first ? 2 : 1;
  const auto size = [](int64_t n) {
    WEFT_CHECK(n < Problem<T>::longest, "attention: axes of {} elements or more are too long for its kernels, got {}", Problem<T>::longest,
               n);
    return static_cast<int>(n);
  };
  const auto reach = [](int64_t n) { return static_cast<int>(std::clamp(n, -Problem<T>::widest, Problem<T>::widest)); };
  Problem<T> p;
  p.B = size(q.size(0)), p.H = size(q.size(head_axis)), p.N = size(q.size(row_axis)), p.D = size(q.size(3));
  p.Hkv = size(k.size(head_axis)), p.M = size(k.size(row_axis));
  p.scale = static_cast<acc_of<T>>(scope.scale);
  p.left = reach(scope.left), p.right = reach(scope.right);
  p.q = row_array<const T>(q, scope.layout), p.k = row_array<const T>(k, scope.layout);
  if (v.defined()) {
    p.Dv = size(v.size(3));
    p.v = row_array<const T>(v, scope.layout);
  }
  p.mask = pair_array<const bool>(scope.mask), p.bias = pair_array<const T>(scope.bias);
  if (scope.key_lengths.defined()) p.key_lengths = scope.key_lengths.data<int64_t>();
  p.multiplier = pair_array<const T>(scope.dropout_multiplier);
  if (!p.multiplier && scope.dropout > 0) {
    p.draws = true;
    p.threshold = drop_threshold(scope.dropout);
    p.keep_scale = scope.dropout < 1 ? static_cast<acc_of<T>>(1 / (1 - scope.dropout)) : acc_of<T>(0);
    p.key = scope.key;
  }
  return p;
}

/// Weights [B, H, N, M] or their gradient, or compact ones: [B, H, N, left + 1 + right], of which only entries of the window may be
/// touched.
template <class T>
PairArray<T> weights_array(const Tensor& x /*?*/, const AttentionScope& scope, int64_t H, int64_t N, int64_t M) {
  if (!x.defined()) return {};
  T* data = static_cast<T*>(x.raw());
  if (!scope.compact) return {data, H * N * M, N * M, M, 1};
  // Entry t of row i is key i + (M - N) - left + t: one column further left with every row.
  const int64_t width = scope.left + 1 + scope.right;
  return {data - (M - N - scope.left), H * N * width, N * width, width - 1, 1};
}

}  // namespace weft::cuda
