// Does a backward agree with differences of its forward? Public: whoever writes an op or a layer checks it with one line.
//
//     gradcheck([](const std::vector<Tensor>& in) { return softmax(in[0]); }, {randn({3, 5}, {.dtype = DType::float64})});
//
// With a random cotangent c, the analytic gradient of sum(c * f(x)) is compared with central differences
// sum(c * (f(x + h) - f(x - h))) / 2h, in float64. The cotangent is random because sums hide errors: the sum of a softmax is constant.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "weft/autograd/graph.h"

namespace weft {

struct GradcheckOptions {
  double step = 1e-5;
  /// The largest allowed difference is absolute + relative * |gradient|.
  double absolute = 1e-7, relative = 1e-5;
  /// Every element of every input by itself (two forwards each); otherwise one random direction through all of them (two forwards).
  bool every_element = true;
  /// Of the cotangent and the direction.
  uint64_t seed = 0;
  /// What the report calls the inputs; "input 0", ... where names are missing.
  std::vector<std::string> names = {};
  /// Throw weft::Error with the report's message instead of returning a report that did not pass.
  bool throws = true;
};

struct GradcheckReport {
  bool passed = true;
  /// Derivatives compared, and how many of them disagree.
  int64_t checked = 0, failed = 0;
  /// The worst of them: which input, its element (-1: a direction through all inputs), and both values.
  int input = -1;
  int64_t element = -1;
  double analytic = 0, numeric = 0;
  /// One sentence on the worst disagreement.
  std::string message;
};

/// The function under test: inputs to outputs.
using GradcheckFunction = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;

/// Checks the gradients of all float64 inputs; int64 and bool inputs are passed on as they are. `f` must give the same values for the
/// same inputs: ops with random numbers take a fixed RandomKey. Outputs that are not floating point are left out.
GradcheckReport gradcheck(const GradcheckFunction& f, const std::vector<Tensor>& inputs, const GradcheckOptions& options = {});

/// The same for functions of one output.
template <class F, class = std::enable_if_t<std::is_same_v<std::invoke_result_t<F, const std::vector<Tensor>&>, Tensor>>>
GradcheckReport gradcheck(F f, const std::vector<Tensor>& inputs, const GradcheckOptions& options = {}) {
  const GradcheckFunction many = [f = std::move(f)](const std::vector<Tensor>& in) mutable { return std::vector<Tensor>{f(in)}; };
  return gradcheck(many, inputs, options);
}

}  // namespace weft
