// The engine: Node, record, NoGrad, backward, and nothing else.
//
// An op computes its value, then calls `record` with a closure that maps the gradient of its output to the gradients of its inputs. The
// closure's capture list is what stays in memory. `backward` takes nodes in decreasing order of creation, which is already a topological
// order, adds up what arrives at each, and frees each closure once it has run.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <source_location>
#include <span>
#include <vector>

#include "weft/core/tensor.h"

namespace weft {

/// What a backward returns: one gradient per input, in order; an undefined tensor for "none".
using Grads = std::vector<Tensor>;
using Backward = std::function<Grads(const Tensor& dy)>;
/// For ops of several outputs: the gradient of an output that nobody used is undefined.
using BackwardMany = std::function<Grads(std::span<const Tensor> dys)>;

/// Where an op was called: the last, defaulted parameter of every op. Anomaly mode and errors show it.
using Location = std::source_location;

// ---- leaves --------------------------------------------------------------------------------------------------------------------------

/// A leaf of the graph that shares `value`'s memory and collects a gradient: `Tensor w = parameter(randn({3, 4}))`.
Tensor parameter(Tensor value);
/// Turns gradient collection of a leaf on or off (freezing). An error for the result of an op.
void set_requires_grad(Tensor& leaf, bool on);
/// Does a gradient flow to or through x?
bool requires_grad(const Tensor& x);
/// Is x a leaf made by `parameter`?
bool is_parameter(const Tensor& x);

/// The gradient that backward passes have added up in a leaf; undefined before the first.
Tensor grad(const Tensor& leaf);
/// Replaces it; an undefined tensor clears it.
void set_grad(const Tensor& leaf, Tensor value);
inline void zero_grad(const Tensor& leaf) { set_grad(leaf, {}); }

namespace detail {
/// A module has another tensor in this parameter's place (convert): an optimizer that still holds this one trains nothing.
void mark_replaced(const Tensor& leaf);
bool is_replaced(const Tensor& leaf);
}  // namespace detail

// ---- recording -----------------------------------------------------------------------------------------------------------------------

namespace detail {
enum class GradMode : uint8_t { record, capture, off };
}

/// While it lives, this thread records nothing.
class NoGrad {
 public:
  explicit NoGrad(bool active = true);
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  detail::GradMode previous_;
};
/// While it lives, this thread records again: a backward that runs a forward of its own (checkpoint).
class WithGrad {
 public:
  WithGrad();
  ~WithGrad();
  WithGrad(const WithGrad&) = delete;
  WithGrad& operator=(const WithGrad&) = delete;

 private:
  detail::GradMode previous_;
};
/// While it lives, this thread records nothing, but notes what its ops would have differentiated: the tensors that a function uses from
/// outside, parameters and results of other ops, each once. NoGrad inside turns the noting off as well.
class CaptureScope {
 public:
  CaptureScope();
  ~CaptureScope();
  CaptureScope(const CaptureScope&) = delete;
  CaptureScope& operator=(const CaptureScope&) = delete;

  const std::vector<Tensor>& captured() const { return captured_; }
  void note(const Tensor& x);

 private:
  detail::GradMode previous_;
  CaptureScope* outer_;
  std::vector<Tensor> captured_;
};
bool grad_enabled();

/// While it lives, every op's outputs and gradients on this thread are checked: the first NaN or infinity is an error that names the op,
/// the direction and the place of the call. Infinities that were asked for (masked_fill with -inf) or came in with an input are no anomaly.
/// AnomalyMode(false) leaves things as they are.
class AnomalyMode {
 public:
  explicit AnomalyMode(bool active = true);
  ~AnomalyMode();
  AnomalyMode(const AnomalyMode&) = delete;
  AnomalyMode& operator=(const AnomalyMode&) = delete;

 private:
  bool previous_;
};

/// What anomaly mode makes of an infinity in the output of an op.
enum class Infinities : uint8_t { anomaly, asked_for };

namespace detail {
bool should_record(std::span<const Tensor> inputs);
void check_forward(const char* op, std::span<const Tensor> outputs, std::span<const Tensor> inputs, const Location& at,
                   Infinities infinities);
std::vector<Tensor> attach(const char* op, std::vector<Tensor> outputs, std::span<const Tensor> inputs, BackwardMany backward,
                           const Location& at);
}  // namespace detail

/// Ends an op of one output. Returns `y`, attached to the graph if an input requires a gradient. An error if y already carries a graph:
/// the forward of a fused op belongs into a NoGrad scope.
template <class F>
Tensor record(const char* op, Tensor y, const std::vector<Tensor>& inputs, F&& backward, const Location& at,
              Infinities infinities = Infinities::anomaly) {
  detail::check_forward(op, {&y, 1}, inputs, at, infinities);
  if (!detail::should_record(inputs)) return y;
  return detail::attach(
      op, {std::move(y)}, inputs, [f = std::forward<F>(backward)](std::span<const Tensor> dys) { return f(dys[0]); }, at)[0];
}

/// The same for several outputs, recorded together.
template <class F>
std::vector<Tensor> record_many(const char* op, std::vector<Tensor> ys, const std::vector<Tensor>& inputs, F&& backward,
                                const Location& at) {
  detail::check_forward(op, ys, inputs, at, Infinities::anomaly);
  if (!detail::should_record(inputs)) return ys;
  return detail::attach(op, std::move(ys), inputs, std::forward<F>(backward), at);
}

// ---- backward ------------------------------------------------------------------------------------------------------------------------

struct BackwardOptions {
  /// Keep the closures, so that backward can run through this graph again.
  bool retain_graph = false;
};

/// Adds d(y . dy)/d(leaf) to the gradient of every leaf that y depends on. `dy` may be left out for a scalar (it is 1 then).
void backward(const Tensor& y, const Tensor& dy = {}, BackwardOptions options = {});
/// The same from several outputs at once.
void backward(std::span<const Tensor> ys, std::span<const Tensor> dys, BackwardOptions options = {});

/// Inside a closure that runs in a backward: may it run again (retain_graph)? If not, memory that it alone still holds is free to become
/// the gradient.
bool graph_is_retained();

/// d(y . dy)/d(x) for each x (a leaf or an intermediate result); leaves are not touched. Undefined where y does not depend on x.
Grads gradients(std::span<const Tensor> ys, std::span<const Tensor> dys, std::span<const Tensor> xs, BackwardOptions options = {});

/// The same for one output: `gradients(y, {q, k, v}, dy)`. `dy` may be left out for a scalar.
Grads gradients(const Tensor& y, const std::vector<Tensor>& xs, const Tensor& dy = {}, BackwardOptions options = {});

/// The same for one output, with xs taken for leaves: what an x was computed from is not visited, and an x without a graph gets nothing.
Grads gradients_down_to(std::span<const Tensor> xs, const Tensor& y, const Tensor& dy);

/// The same memory outside the graph: a constant.
Tensor detach(const Tensor& x);
inline Tensor stop_gradient(const Tensor& x) { return detach(x); }

}  // namespace weft
