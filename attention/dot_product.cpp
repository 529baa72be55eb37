#include "weft/attention/dot_product.h"

#include <algorithm>
#include <cmath>

#include "weft/attention/heads.h"
#include "weft/attention/kernels.h"
#include "weft/attention/reference.h"
#include "weft/autograd/check.h"

namespace weft {

Attended dot_product_reference(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options, Location at) {
  return attention_reference("dot_product", q, k, v, {}, options, at);
}

Attended dot_product(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options, Location at) {
  WEFT_CHECK(!options.compact_weights, "dot_product: there is no compact layout of its weights; ask for return_weights alone");
  return dot_product_window("dot_product", q, k, v, {AttentionScope::unlimited, AttentionScope::unlimited}, options, at);
}

Attended dot_product_window(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, AttentionWindow window,
                            const AttendOptions& options, Location at) {
  const AttentionSizes sizes = check_qkv(op, q, k, v, options.layout);
  check_float(op, q);
  check_attend_options(op, sizes, q, options);
  const AttentionScope scope{.scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(sizes.head_dim))),
                             .left = window.left,
                             .right = options.causal ? std::min<int64_t>(window.right, 0) : window.right,
                             .mask = options.mask,
                             .bias = options.bias,
                             .key_lengths = options.key_lengths,
                             .dropout = options.dropout,
                             .key = options.key,
                             .dropout_multiplier = options.dropout_multiplier,
                             .layout = options.layout,
                             .compact = options.compact_weights};
  const TensorOptions like = q.options();
  Shape y_shape = q.shape();
  y_shape[3] = sizes.value_dim;
  const DType statistics = q.dtype() == DType::float64 ? DType::float64 : DType::float32;  // what kernels compute in
  Tensor y = empty(y_shape, like), lse = empty({sizes.batch, sizes.heads, sizes.queries}, {.dtype = statistics, .device = q.device()});
  WEFT_LAUNCH(q, dot_product(y, lse, q, k, v, scope));
  std::vector<Tensor> outputs{y};
  if (options.return_weights) {
    Shape shape = sizes.scores();
    if (scope.compact) shape[3] = scope.left + 1 + scope.right;
    outputs.push_back(empty(shape, like));  // [B, H, N, M]
    WEFT_LAUNCH(q, dot_product_weights(outputs[1], q, k, lse, scope));
  }
  std::vector<Tensor> inputs{q, k, v};
  if (options.bias.defined()) inputs.push_back(options.bias);

  const std::vector<Tensor> results = record_many(
      op, outputs, inputs,
      [q, k, v, y, lse, scope](std::span<const Tensor> grads) -> Grads {
        const Tensor dy = grads[0].defined() ? grads[0] : zeros_like(y), dweights = grads.size() > 1 ? grads[1] : Tensor();
        Tensor delta = empty_like(lse);
        WEFT_LAUNCH(q, dot_product_delta(delta, dy, y, dweights, q, k, lse, scope));
        Tensor dq = empty_like(q), dk = empty_like(k), dv = empty_like(v), dbias;
        if (scope.bias.defined() && requires_grad(scope.bias)) dbias = empty_like(scope.bias);
        WEFT_LAUNCH(q, dot_product_backward(dq, dk, dv, dbias, dy, dweights, q, k, v, lse, delta, scope));
        Grads gradients{dq, dk, dv};
        if (scope.bias.defined()) gradients.push_back(dbias);
        return gradients;
      },
      at);
  return {results[0], options.return_weights ? results[1] : Tensor()};
}

namespace {

class DotProductBody : public MechanismBody {
 public:
  Attended attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options, Location at) const override {
    return dot_product(q, k, v, options, at);
  }
};

}  // namespace

WEFT_MECHANISM(dot_product) { return std::make_shared<DotProductBody>(); }

}  // namespace weft
