// Checkpointing: memory for time. Only the inputs of a stretch of the model are kept; its backward runs the stretch again.
// T. Chen, B. Xu, C. Zhang, C. Guestrin: Training deep nets with sublinear memory cost (2016).
#pragma once

#include <functional>
#include <vector>

#include "weft/autograd/graph.h"

namespace weft {

/// f(inputs) without keeping what is inside. In the backward f runs again, with the same random numbers (dropout repeats), and is
/// differentiated: the gradients of `inputs` flow on, those of parameters that f uses by itself (a module's weights) are added to them
/// directly. At least one input must require a gradient for that to happen, or `parameters` must name what f uses.
Tensor checkpoint(const std::function<Tensor(const std::vector<Tensor>&)>& f, const std::vector<Tensor>& inputs,
                  const std::vector<Tensor>& parameters = {}, Location at = Location::current());

}  // namespace weft
