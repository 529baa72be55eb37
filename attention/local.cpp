#include "weft/attention/local.h"

#include "weft/attention/dot_product.h"
#include "weft/attention/reference.h"

namespace weft {
namespace {

const LocalOptions& checked(const char* op, const LocalOptions& options) {
  WEFT_CHECK(options.window >= 1, "{}: the window must be at least 1, got {}", op, options.window);
  return options;
}

class LocalBody : public MechanismBody {
 public:
  explicit LocalBody(const LocalOptions& options) : options_(checked("local", options)) {}
  Attended attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options) const override {
    return local(q, k, v, options_, options);
  }

 private:
  LocalOptions options_;
};

}  // namespace

Attended local_reference(const Tensor& q, const Tensor& k, const Tensor& v, const LocalOptions& local_options, const AttendOptions& options,
                         Location at) {
  const int64_t half = checked("local", local_options).window / 2;
  const int rows = options.layout == AttentionLayout::bhnd ? 2 : 1;
  return attention_reference("local", q, k, v, window_mask(q.size(rows), k.size(rows), half, half, q.device()), options, at);
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
                                                                                   const AttendOptions& attend) {
                      return local(q, k, v, local_options, attend);
                    }) {}

}  // namespace weft
