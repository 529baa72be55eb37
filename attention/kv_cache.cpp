#include "weft/attention/kv_cache.h"

#include <algorithm>

#include "weft/autograd/graph.h"

namespace weft {
namespace {

bool fits(const Tensor& buffer, const Tensor& x) {
  return x.size(0) == buffer.size(0) && x.size(2) == buffer.size(2) && x.size(3) == buffer.size(3) && x.dtype() == buffer.dtype() &&
         x.device() == buffer.device();
}

}  // namespace

void KeyValueCache::append(const Tensor& k, const Tensor& v) {
  WEFT_CHECK(k.rank() == 4 && v.rank() == 4 && k.size(0) == v.size(0) && k.size(1) == v.size(1) && k.size(2) == v.size(2),
             "KeyValueCache: expected k and v of [B, N, H, D] with the same B, N and H, got {} and {}", k, v);
  WEFT_CHECK(!grad_enabled() || (!requires_grad(k) && !requires_grad(v)),
             "KeyValueCache: the cache is written in place, so generation must run under NoGrad");
  WEFT_CHECK(!keys_.defined() || (fits(keys_, k) && fits(values_, v)),
             "KeyValueCache: the cache holds keys {} and values {} (batch, capacity, heads, width), got {} and {}; start a fresh one",
             keys_, values_, k, v);
  const int64_t n = k.size(1);
  if (!keys_.defined() || length_ + n > keys_.size(1)) {
    constexpr int64_t least = 64;
    capacity_ = std::max({capacity_, length_ + n, keys_.defined() ? 2 * length_ : least});
    grow(keys_, k);
    grow(values_, v);
  }
  store(keys_, k, length_);
  store(values_, v, length_);
  length_ += n;
}

Tensor KeyValueCache::row(const Tensor& buffer, int64_t b, int64_t begin, int64_t end) {
  const Tensor all = buffer.rows(b, b + 1).viewed_as({buffer.size(1), buffer.size(2), buffer.size(3)});
  return all.rows(begin, end).viewed_as({1, end - begin, buffer.size(2), buffer.size(3)});
}

void KeyValueCache::store(Tensor& buffer, const Tensor& x, int64_t position) {
  for (int64_t b = 0; b < x.size(0); ++b) row(buffer, b, position, position + x.size(1)).copy_from(x.rows(b, b + 1));
}

void KeyValueCache::grow(Tensor& buffer, const Tensor& like) const {
  Tensor larger = empty({like.size(0), capacity_, like.size(2), like.size(3)}, like.options());
  for (int64_t b = 0; buffer.defined() && b < like.size(0); ++b) row(larger, b, 0, length_).copy_from(row(buffer, b, 0, length_));
  buffer = larger;
}

}  // namespace weft
