// Local attention: query i sees the keys j with |i - j| <= window / 2 (an even window spans window + 1 positions).
//
//   W = softmax(scale q k^T + bias) over the window, masked;  y = W v
//
// With N != M the last query is aligned with the last key.
#pragma once

#include "weft/attention/self_attention.h"

namespace weft {

struct LocalOptions {
  int64_t window = 128;
};

/// q [B, N, H, D], k [B, M, Hkv, D], v [B, M, Hkv, Dv] -> y [B, N, H, Dv] (or heads first, see AttendOptions).
Attended local(const Tensor& q, const Tensor& k, const Tensor& v, const LocalOptions& local_options, const AttendOptions& options = {},
               Location at = Location::current());
/// The same, composed of ops (reference.h).
Attended local_reference(const Tensor& q, const Tensor& k, const Tensor& v, const LocalOptions& local_options,
                         const AttendOptions& options = {}, Location at = Location::current());

/// The module of the attentions package (window_size is window); 8 heads unless given. A floating mask of zeros and ones means the same as
/// a bool one.
struct LocalSelfAttention : SelfAttention {
  LocalSelfAttention() = default;
  explicit LocalSelfAttention(const SelfAttentionOptions& options, const LocalOptions& local_options = {});
};

}  // namespace weft
