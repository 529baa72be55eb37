// KeyValueCache: keys and values of the positions seen so far, so that generation computes each of them once.
#pragma once

#include "weft/core/tensor.h"

namespace weft {

class KeyValueCache {
 public:
  KeyValueCache() = default;
  /// `capacity`: positions to make room for at first; the cache grows on demand.
  explicit KeyValueCache(int64_t capacity) : capacity_(capacity) {}

  /// Adds k [B, n, Hkv, D] and v [B, n, Hkv, Dv]. Outside the graph: an error where a gradient would be recorded.
  void append(const Tensor& k, const Tensor& v);

  /// Positions held.
  int64_t length() const { return length_; }
  int64_t batch() const { return keys_.defined() ? keys_.size(0) : 0; }
  /// The keys and values of batch row b, [1, length, Hkv, D]: views of the cache's memory, valid until the next append.
  Tensor keys(int64_t b = 0) const { return row(keys_, b, 0, length_); }
  Tensor values(int64_t b = 0) const { return row(values_, b, 0, length_); }

 private:
  // Positions [begin, end) of batch row b.
  static Tensor row(const Tensor& buffer, int64_t b, int64_t begin, int64_t end);
  static void store(Tensor& buffer, const Tensor& x, int64_t position);
  void grow(Tensor& buffer, const Tensor& like) const;

  Tensor keys_, values_;  // [B, capacity, Hkv, D]
  int64_t capacity_ = 0;
  int64_t length_ = 0;
};

}  // namespace weft
