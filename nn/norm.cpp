#include "weft/nn/norm.h"

#include <cmath>

namespace weft {

LayerNorm::LayerNorm(const LayerNormOptions& options) : eps(options.eps) {
  WEFT_CHECK(options.dim >= 1, "LayerNorm: dim must be at least 1, got {}", options.dim);
  if (options.weight) weight = init::constant({options.dim}, 1);
  if (options.bias) bias = init::constant({options.dim}, 0);
}

RMSNorm::RMSNorm(const RMSNormOptions& options) : eps(options.eps) {
  WEFT_CHECK(options.dim >= 1, "RMSNorm: dim must be at least 1, got {}", options.dim);
  if (options.weight) weight = init::constant({options.dim}, 1);
}

GroupNorm::GroupNorm(const GroupNormOptions& options) : groups(options.groups), eps(options.eps) {
  WEFT_CHECK(options.channels >= 1 && groups >= 1 && options.channels % groups == 0,
             "GroupNorm: channels ({}) must be a positive multiple of groups ({})", options.channels, groups);
  if (!options.affine) return;
  weight = init::constant({options.channels}, 1);
  bias = init::constant({options.channels}, 0);
}

ScaleNorm::ScaleNorm(const ScaleNormOptions& options) : eps(options.eps) {
  WEFT_CHECK(options.dim >= 1, "ScaleNorm: dim must be at least 1, got {}", options.dim);
  weight = init::constant({1}, std::sqrt(static_cast<double>(options.dim)));
}

const std::vector<std::pair<NormKind, std::string>>& norm_kinds() {
  static const std::vector<std::pair<NormKind, std::string>> kinds = {
      {NormKind::layer, "layer"}, {NormKind::rms, "rms"}, {NormKind::scale, "scale"}};
  return kinds;
}

Norm::Norm(NormKind kind, int64_t dim) {
  if (kind == NormKind::layer) norm = LayerNorm({.dim = dim});
  if (kind == NormKind::rms) norm = RMSNorm({.dim = dim, .eps = 1e-6});
  if (kind == NormKind::scale) norm = ScaleNorm({.dim = dim});
}

}  // namespace weft
