#include "weft/nn/dropout.h"

namespace weft {

Dropout::Dropout(const DropoutOptions& options) : p(options.p) { WEFT_CHECK(p >= 0 && p <= 1, "Dropout: p must be in [0, 1], got {}", p); }

Tensor Dropout::operator()(const Tensor& x, Location at) const { return active() ? dropout(x, p, default_generator().next(), at) : x; }

}  // namespace weft
