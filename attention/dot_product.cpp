#include "weft/attention/dot_product.h"

#include "weft/attention/reference.h"

namespace weft {

Attended dot_product_reference(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options, Location at) {
  return attention_reference("dot_product", q, k, v, {}, options, at);
}

Attended dot_product(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options, Location at) {
  return dot_product_reference(q, k, v, options, at);
}

namespace {

class DotProductBody : public MechanismBody {
 public:
  Attended attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options) const override {
    return dot_product(q, k, v, options);
  }
};

}  // namespace

WEFT_MECHANISM(dot_product) { return std::make_shared<DotProductBody>(); }

}  // namespace weft
