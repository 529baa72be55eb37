// Optimizers of training runs, from PyTorch's options.
#pragma once

#include <memory>

#include "golden.h"
#include "weft/train/optimizer.h"

namespace weft::golden {

class Trainer {
 public:
  /// `settings`: name, its options, and clip.
  Trainer(Arguments& settings, const std::vector<NamedTensor>& tensors);

  /// One step from the gradients, which are cleared. Returns their norm before clipping.
  double step();

 private:
  std::unique_ptr<Optimizer> optimizer_;
  double max_norm_ = 0;  // 0: no clipping
};

}  // namespace weft::golden
