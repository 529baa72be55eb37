// Gradient check of a module: its inputs and all of its parameters, in float64, with random values everywhere.
#pragma once

#include "testing.h"
#include "weft/nn/module.h"

namespace weft::testing {

/// f(module, inputs) -> output.
template <class M, class F>
void check_module(M module, std::vector<Tensor> inputs, F f, GradcheckOptions options = {}) {
  convert(module, DType::float64);
  const std::vector<NamedTensor> entries = detail::collect(module);
  const size_t count = inputs.size();
  for (size_t i = 0; i < count; ++i) options.names.push_back(format("x{}", i));
  for (const NamedTensor& entry : entries) {
    inputs.push_back(random(entry.tensor->shape()));
    options.names.push_back(entry.name);
  }
  gradcheck(
      [&](const std::vector<Tensor>& in) {
        for (size_t i = 0; i < entries.size(); ++i) *entries[i].tensor = in[count + i];
        return f(module, in);
      },
      inputs, options);
}

}  // namespace weft::testing
