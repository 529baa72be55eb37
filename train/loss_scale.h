// Loss scaling for float16: small gradients would be rounded to zero there, so the loss is multiplied by a large number, and what the
// gradients are too large by is taken out again in the optimizer's step. Where the scale made them overflow, the step is left out and the
// scale halved; after many good steps it is doubled (P. Micikevicius et al.: Mixed precision training, 2018).
//
//     LossScale scale(device);
//     backward(scale.apply(loss));
//     const Tensor norm = scale.remove(grad_norm(optimizer.parameters()));
//     optimizer.step(scale.remove(clip_scale(norm, 1.0)));      // changes nothing where the norm is not finite
//     scale.update(norm);
//
// bfloat16 reaches as far as float32 and needs none of this. Everything stays on the device: no step waits for it.
#pragma once

#include "weft/core/tensor.h"
#include "weft/nn/module.h"

namespace weft {

struct LossScaleOptions {
  double initial = 65536, growth = 2, backoff = 0.5;
  /// Good steps in a row before the scale grows.
  int64_t growth_interval = 2000;
};

class LossScale {
 public:
  explicit LossScale(Device device, const LossScaleOptions& options = {});

  /// loss * scale, in the loss's dtype: that should be float32 (cross_entropy's is), since 65536 is infinity in float16.
  Tensor apply(const Tensor& loss) const;
  /// x / scale: the norm of scaled gradients becomes that of the true ones, and a clipping factor takes the scale out of them.
  Tensor remove(const Tensor& x) const;
  /// After a step, with the norm of its gradients: was it left out?
  void update(const Tensor& norm);

  /// These wait for the device.
  double scale() const { return scale_.item(); }
  int64_t skipped_steps() const { return static_cast<int64_t>(skipped_.item()); }

  /// "scale", "good_steps", "skipped_steps": for checkpoints, as they are now.
  StateDict state_dict() const;
  void load_state_dict(const StateDict& state);

 private:
  LossScaleOptions options_;
  Tensor scale_, good_steps_, skipped_;  // float64 scalars
};

}  // namespace weft
