// Checkpointing: memory for time. Only the inputs of a stretch of the model are kept; its backward runs the stretch again.
// T. Chen, B. Xu, C. Zhang, C. Guestrin: Training deep nets with sublinear memory cost (2016).
#pragma once

#include <functional>
#include <vector>

#include "weft/autograd/graph.h"

namespace weft {

/// f(inputs) without keeping what is inside. In the backward f runs again, with the same random numbers (dropout repeats), and is
/// differentiated. Gradients reach `inputs` and everything else that f uses: the first run, which records nothing, notes which tensors from
/// outside its ops would have differentiated (the weights of a module that f captures, results of earlier ops), and they become inputs of
/// the recorded node. f must compute the same whenever it runs: ops on tensors, no state of its own that changes.
Tensor checkpoint(const std::function<Tensor(const std::vector<Tensor>&)>& f, const std::vector<Tensor>& inputs,
                  Location at = Location::current());

}  // namespace weft
