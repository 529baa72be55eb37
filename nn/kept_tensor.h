// KeptTensor: a constant that a module computes when it is first needed and keeps from call to call (tables of positions).
#pragma once

#include <memory>
#include <mutex>

#include "weft/core/tensor.h"

namespace weft {

/// Safe in const calls from several threads at once. Copies of a module share what is kept, as they share their parameters.
class KeptTensor {
 public:
  /// The kept tensor if there is one and fits(it); otherwise make(), which is kept in its place.
  template <class Fits, class Make>
  Tensor get(Fits fits, Make make) const {
    const std::lock_guard lock(shared_->mutex);
    if (!shared_->tensor.defined() || !fits(shared_->tensor)) shared_->tensor = make();
    return shared_->tensor;
  }

 private:
  struct Shared {
    std::mutex mutex;
    Tensor tensor;
  };
  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

}  // namespace weft
