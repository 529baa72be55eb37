#include "weft/nn/linear.h"

namespace weft {

Linear::Linear(const LinearOptions& options) {
  WEFT_CHECK(options.in >= 1 && options.out >= 1, "Linear: in and out must be at least 1, got in = {}, out = {}", options.in, options.out);
  weight = init::weight(options.init, options.out, options.in, options.std);
  if (options.bias) bias = init::bias(options.init, options.out, options.in);
}

}  // namespace weft
