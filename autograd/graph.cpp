// Leaves, modes and recording: how the graph comes into being. backward.cpp walks it.
#include "weft/autograd/graph.h"

#include <algorithm>
#include <atomic>

#include "weft/autograd/check.h"
#include "weft/autograd/node.h"
#include "weft/core/kernels.h"

namespace weft {

namespace {

std::atomic<uint64_t> next_sequence{1};
thread_local detail::GradMode grad_mode = detail::GradMode::record;
thread_local CaptureScope* innermost_capture = nullptr;
thread_local bool anomaly_mode = false;

// Releases a node without recursion: a dying node's edges and captures may hold the last handle of the node before it, and so on for
// 100,000 ops. Nodes that die while another one is being destroyed queue up here instead of nesting.
void release_node(Node* node) {
  thread_local std::vector<Node*>* pending = nullptr;
  if (pending != nullptr) {
    pending->push_back(node);
    return;
  }
  std::vector<Node*> queue{node};
  pending = &queue;
  while (!queue.empty()) {
    Node* next = queue.back();
    queue.pop_back();
    delete next;
  }
  pending = nullptr;
}

std::shared_ptr<Node> make_node(const char* op, const Location& at) {
  std::shared_ptr<Node> node(new Node, release_node);
  node->op = op;
  node->at = at;
  node->sequence = next_sequence.fetch_add(1, std::memory_order_relaxed);
  return node;
}

}  // namespace

namespace detail {

bool anomaly_mode_on() { return anomaly_mode; }

std::string place(const Location& at) { return std::string(at.file_name()) + ":" + std::to_string(at.line()); }

Anomalies anomalies(const Tensor& x) {
  if (!x.defined() || !is_computed(x)) return {};
  Tensor counts = empty({2}, {.dtype = DType::int64, .device = x.device()});
  WEFT_LAUNCH(x, count_nonfinite(counts, x));
  const std::vector<int64_t> found = counts.to_vector<int64_t>();
  return {.nan = found[0], .infinite = found[1]};
}

}  // namespace detail

// ---- leaves --------------------------------------------------------------------------------------------------------------------------

Tensor parameter(Tensor value) {
  WEFT_CHECK(value.defined() && is_float(value.dtype()), "parameter: expected a floating point tensor, got {}", value);
  auto node = make_node("parameter", Location::current());
  node->leaf = node->wants_grad = true;
  node->outputs.emplace_back(value);
  value.attach(std::move(node), 0);
  return value;
}

void set_requires_grad(Tensor& leaf, bool on) {
  if (leaf.node() == nullptr) {
    if (on) leaf = parameter(leaf);
    return;
  }
  WEFT_CHECK(leaf.node()->leaf, "set_requires_grad: the tensor is the result of op {}; only parameters can be frozen, use detach here",
             leaf.node()->op);
  leaf.node()->wants_grad = on;
}

bool requires_grad(const Tensor& x) { return x.node() != nullptr && (!x.node()->leaf || x.node()->wants_grad); }
bool is_parameter(const Tensor& x) { return x.node() != nullptr && x.node()->leaf; }

Tensor grad(const Tensor& leaf) {
  WEFT_CHECK(is_parameter(leaf), "grad: {} is not a parameter; gradients are kept for leaves only (use gradients for intermediate results)",
             leaf);
  return leaf.node()->grad;
}

void detail::mark_replaced(const Tensor& leaf) { leaf.node()->replaced = true; }
bool detail::is_replaced(const Tensor& leaf) { return leaf.node()->replaced; }

void set_grad(const Tensor& leaf, Tensor value) {
  WEFT_CHECK(is_parameter(leaf), "set_grad: {} is not a parameter", leaf);
  WEFT_CHECK(!value.defined() || (value.shape() == leaf.shape() && value.dtype() == leaf.dtype()),
             "set_grad: the parameter is {}, the gradient {}", leaf, value);
  WEFT_CHECK(!value.defined() || value.device() == leaf.device(),
             "set_grad: the parameter is on {}, the gradient on {}; move it with to(x, {})", leaf.device(), value.device(), leaf.device());
  leaf.node()->grad = std::move(value);
}

// ---- recording -----------------------------------------------------------------------------------------------------------------------

NoGrad::NoGrad(bool active) : previous_(grad_mode) {
  if (active) grad_mode = detail::GradMode::off;
}
NoGrad::~NoGrad() { grad_mode = previous_; }
WithGrad::WithGrad() : previous_(grad_mode) { grad_mode = detail::GradMode::record; }
WithGrad::~WithGrad() { grad_mode = previous_; }
bool grad_enabled() { return grad_mode == detail::GradMode::record; }

CaptureScope::CaptureScope() : previous_(grad_mode), outer_(innermost_capture) {
  grad_mode = detail::GradMode::capture;
  innermost_capture = this;
}
CaptureScope::~CaptureScope() {
  grad_mode = previous_;
  innermost_capture = outer_;
}
void CaptureScope::note(const Tensor& x) {
  const auto same = [&](const Tensor& other) { return other.node() == x.node() && other.output_index() == x.output_index(); };
  if (requires_grad(x) && std::none_of(captured_.begin(), captured_.end(), same)) captured_.push_back(x);
}

AnomalyMode::AnomalyMode(bool active) : previous_(anomaly_mode) {
  if (active) anomaly_mode = true;
}
AnomalyMode::~AnomalyMode() { anomaly_mode = previous_; }

namespace detail {

bool should_record(std::span<const Tensor> inputs) {
  if (grad_mode == GradMode::capture) {
    for (const Tensor& input : inputs) innermost_capture->note(input);
  }
  if (grad_mode != GradMode::record) return false;
  for (const Tensor& input : inputs) {
    if (requires_grad(input)) return true;
  }
  return false;
}

void check_forward(const char* op, std::span<const Tensor> outputs, std::span<const Tensor> inputs, const Location& at,
                   Infinities infinities) {
  if (!anomaly_mode) return;
  const auto came_in = [&] { return std::any_of(inputs.begin(), inputs.end(), [](const Tensor& x) { return anomalies(x).infinite > 0; }); };
  for (const Tensor& y : outputs) {
    Anomalies bad = anomalies(y);
    if (bad.infinite > 0 && (infinities == Infinities::asked_for || came_in())) bad.infinite = 0;
    WEFT_CHECK(bad.total() == 0, "anomaly: the forward of {} called at {} produced {} NaN or infinite elements in {}", op, place(at),
               bad.total(), y);
  }
}

std::vector<Tensor> attach(const char* op, std::vector<Tensor> outputs, std::span<const Tensor> inputs, BackwardMany backward,
                           const Location& at) {
  auto node = make_node(op, at);
  node->backward = std::move(backward);
  for (const Tensor& input : inputs) {
    node->inputs.push_back({requires_grad(input) ? input.node() : nullptr, input.output_index(), Snapshot(input)});
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    Tensor& y = outputs[i];
    WEFT_CHECK(y.defined(), "{}: output {} is an undefined tensor; record needs the tensor that the op has computed", op, i);
    WEFT_CHECK(y.node() == nullptr, "{}: output {} already carries a graph (op {}); compute the forward of a fused op under NoGrad", op, i,
               y.node()->op);
    node->outputs.emplace_back(y);
    y.attach(node, static_cast<int>(i));
  }
  return outputs;
}

}  // namespace detail

Tensor detach(const Tensor& x) {
  Tensor y = x;
  y.attach(nullptr, 0);
  return y;
}

}  // namespace weft
