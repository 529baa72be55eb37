#include "weft/attention/local.h"

#include "weft/attention/dot_product.h"
#include "weft/attention/mask.h"
#include "weft/attention/reference.h"
#include "weft/autograd/ops.h"

namespace weft {
namespace {

const LocalOptions& checked(const char* op, const LocalOptions& options) {
  WEFT_CHECK(options.window >= 1, "{}: the window must be at least 1, got {}", op, options.window);
  return options;
}

// Dense weights [B, H, N, M] -> the band [B, H, N, width], whose entry t of row i is key i + (M - N) - half + t.
Tensor band_of(const Tensor& weights, int64_t half, int64_t width, Location at) {
  const int64_t n = weights.size(2), m = weights.size(3);
  // In a row with `before` zeros in front, key i + (m - n) - half + t stands at i + t; `after` zeros let the last rows end.
  const int64_t before = n - m + half, after = half;
  std::vector<int64_t> index;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t t = 0; t < width; ++t) index.push_back(i + t);
  }
  const Tensor columns = to(from_vector(index, {1, 1, n, width}), weights.device());
  return gather(pad(weights, 3, before, after, 0, at), 3, broadcast_to(columns, {weights.size(0), weights.size(1), n, width}), at);
}

class LocalBody : public MechanismBody {
 public:
  explicit LocalBody(const LocalOptions& options) : options_(checked("local", options)) {}
  Attended attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options, Location at) const override {
    return local(q, k, v, options_, options, at);
  }

 private:
  LocalOptions options_;
};

}  // namespace

Attended local_reference(const Tensor& q, const Tensor& k, const Tensor& v, const LocalOptions& local_options, const AttendOptions& options,
                         Location at) {
  const int64_t half = checked("local", local_options).window / 2;
  const int rows = options.layout == AttentionLayout::bhnd ? 2 : 1;
  const Tensor window = window_mask(q.size(rows), k.size(rows), half, half, q.device());
  Attended result = attention_reference("local", q, k, v, window, options, at);
  if (options.return_weights && options.compact_weights) {
    result.weights = band_of(result.weights, half, options.causal ? half + 1 : 2 * half + 1, at);
  }
  return result;
}

Attended local(const Tensor& q, const Tensor& k, const Tensor& v, const LocalOptions& local_options, const AttendOptions& options,
               Location at) {
  const int64_t half = checked("local", local_options).window / 2;
  return dot_product_window("local", q, k, v, {half, half}, options, at);
}

WEFT_MECHANISM(local) { return std::make_shared<LocalBody>(LocalOptions{.window = arguments.integer("window", 128)}); }

LocalSelfAttention::LocalSelfAttention(const SelfAttentionOptions& options, const LocalOptions& local_options)
    : SelfAttention(options, {.name = "LocalSelfAttention", .heads = 8, .floating_mask = true, .has_compact_weights = true},
                    [local_options = checked("LocalSelfAttention", local_options)](const Tensor& q, const Tensor& k, const Tensor& v,
                                                                                   const AttendOptions& attend, Location at) {
                      return local(q, k, v, local_options, attend, at);
                    }) {}

}  // namespace weft
