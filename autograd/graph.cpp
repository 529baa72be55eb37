#include "weft/autograd/graph.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <queue>
#include <unordered_map>

#include "weft/core/kernels.h"

namespace weft {

namespace {

// The memory that a backward may read, in the state that the forward saw. It is not kept alive: what is gone was not captured.
struct Snapshot {
  std::weak_ptr<Storage> storage;
  uint64_t version = 0;
  explicit Snapshot(const Tensor& x) : storage(x.storage()), version(x.version()) {}
  bool is_stale() const {
    const auto alive = storage.lock();
    return alive != nullptr && alive->version.load(std::memory_order_relaxed) != version;
  }
};

// An input of a node and where its gradient goes.
struct Edge {
  std::shared_ptr<Node> node;  // null: needs no gradient
  int output = 0;
  Snapshot memory;
};

struct OutputInfo {
  Shape shape;
  DType dtype;
  Device device;
  Snapshot memory;
  explicit OutputInfo(const Tensor& y) : shape(y.shape()), dtype(y.dtype()), device(y.device()), memory(y) {}
};

}  // namespace

struct Node {
  const char* op = "";
  Location at;
  uint64_t sequence = 0;
  std::vector<OutputInfo> outputs;

  // An op:
  std::vector<Edge> inputs;
  BackwardMany backward;
  bool freed = false;

  // A leaf:
  bool leaf = false;
  bool wants_grad = false;
  Tensor grad;
};

namespace {

std::atomic<uint64_t> next_sequence{1};
thread_local detail::GradMode grad_mode = detail::GradMode::record;
thread_local CaptureScope* innermost_capture = nullptr;
thread_local bool anomaly_mode = false;
thread_local bool retains_graph = false;  // of the innermost backward that runs on this thread

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

std::string place(const Location& at) { return std::string(at.file_name()) + ":" + std::to_string(at.line()); }

int64_t nonfinite_count(const Tensor& x) {
  if (!x.defined() || (x.dtype() != DType::float32 && x.dtype() != DType::float64)) return 0;
  Tensor count = empty({}, {.dtype = DType::int64, .device = x.device()});
  WEFT_LAUNCH(x, count_nonfinite(count, x));
  return static_cast<int64_t>(count.item());
}

}  // namespace

// ---- leaves
// ------------------------------------------------------------------------------------------------------------------------------

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

void set_grad(const Tensor& leaf, Tensor value) {
  WEFT_CHECK(is_parameter(leaf), "set_grad: {} is not a parameter", leaf);
  WEFT_CHECK(!value.defined() || (value.shape() == leaf.shape() && value.dtype() == leaf.dtype()),
             "set_grad: the parameter is {}, the gradient {}", leaf, value);
  leaf.node()->grad = std::move(value);
}

// ---- recording
// -----------------------------------------------------------------------------------------------------------------------------

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

AnomalyMode::AnomalyMode(bool active) : previous_(anomaly_mode) { anomaly_mode = active; }
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

void check_forward(const char* op, std::span<const Tensor> outputs, const Location& at) {
  if (!anomaly_mode) return;
  for (const Tensor& y : outputs) {
    const int64_t bad = nonfinite_count(y);
    WEFT_CHECK(bad == 0, "anomaly: the forward of {} called at {} produced {} NaN or infinite elements in {}", op, place(at), bad, y);
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
    WEFT_CHECK(y.node() == nullptr, "{}: output {} already carries a graph (op {}); compute the forward of a fused op under NoGrad", op, i,
               y.node()->op);
    node->outputs.emplace_back(y);
    y.attach(node, static_cast<int>(i));
  }
  return outputs;
}

}  // namespace detail

// ---- backward
// --------------------------------------------------------------------------------------------------------------------------------

namespace {

// Adds `gradient` to `sum`. Memory that nobody else sees is added to in place; anything else may still be another op's gradient.
void add_gradient(Tensor& sum, Tensor gradient) {
  if (!sum.defined()) {
    sum = std::move(gradient);
  } else if (sum.sole_owner()) {
    WEFT_LAUNCH(sum, accumulate(sum, gradient, 1));
  } else if (gradient.sole_owner()) {
    WEFT_LAUNCH(sum, accumulate(gradient, sum, 1));
    sum = std::move(gradient);
  } else {
    Tensor fresh = clone(sum);
    WEFT_LAUNCH(fresh, accumulate(fresh, gradient, 1));
    sum = std::move(fresh);
  }
}

struct Pending {
  std::shared_ptr<Node> node;
  bool operator<(const Pending& other) const { return node->sequence < other.node->sequence; }
};

class Pass {
 public:
  explicit Pass(BackwardOptions options) : options_(options) {}

  void start(const Tensor& y, Tensor dy) {
    WEFT_CHECK(requires_grad(y), "backward: {} does not depend on any parameter, so there is nothing to differentiate", y);
    if (!dy.defined()) {
      WEFT_CHECK(y.numel() == 1, "backward: {} is not a scalar; pass a cotangent of the same shape, or reduce it with sum or mean first",
                 y);
      dy = ones(y.shape(), {.dtype = y.dtype(), .device = y.device()});
    }
    WEFT_CHECK(dy.shape() == y.shape() && dy.dtype() == y.dtype() && dy.device() == y.device(),
               "backward: the output is {}, its cotangent {}", y, dy);
    arrive(y.node(), y.output_index(), detach(dy));
  }

  /// Keeps the gradients that arrive at the outputs of `node`. Nothing that was created before all watched nodes is visited.
  void watch(Node* node) {
    watched_.emplace(node, Grads());
    first_watched_ = std::min(first_watched_, node->sequence);
  }
  Grads* watched(Node* node) {
    auto found = watched_.find(node);
    return found == watched_.end() ? nullptr : &found->second;
  }

  void run(bool fill_leaves, bool stop_at_watched = false) {
    NoGrad no_grad;
    struct Restore {
      bool before = retains_graph;
      ~Restore() { retains_graph = before; }
    } restore;
    retains_graph = options_.retain_graph;
    while (!queue_.empty() && (fill_leaves || queue_.top().node->sequence >= first_watched_)) {
      std::shared_ptr<Node> node = queue_.top().node;
      queue_.pop();
      auto entry = arrived_.extract(node.get());
      Grads& dys = entry.mapped();
      if (Grads* kept = watched(node.get())) {
        *kept = dys;
        if (stop_at_watched) continue;
      }
      if (!fill_leaves && node->sequence == first_watched_) break;
      if (node->leaf) {
        if (fill_leaves && node->wants_grad) add_gradient(node->grad, std::move(dys[0]));
        continue;
      }
      step(*node, dys);
    }
  }

 private:
  void step(Node& node, Grads& dys) {
    WEFT_CHECK(!node.freed,
               "backward: the graph through {} (called at {}) was freed by an earlier backward; pass {.retain_graph = true} there", node.op,
               place(node.at));
    for (size_t i = 0; i < node.inputs.size(); ++i) check_unchanged(node.inputs[i].memory, "input", i, node);
    for (size_t i = 0; i < node.outputs.size(); ++i) check_unchanged(node.outputs[i].memory, "output", i, node);
    Grads dxs = node.backward(dys);
    WEFT_CHECK(dxs.size() == node.inputs.size(), "backward of {}: returned {} gradients for {} inputs", node.op, dxs.size(),
               node.inputs.size());
    if (anomaly_mode) check_backward(node, dxs);
    dys.clear();
    if (!options_.retain_graph) {
      node.backward = nullptr;
      node.freed = true;
    }
    for (size_t i = 0; i < dxs.size(); ++i) {
      const Edge& edge = node.inputs[i];
      if (edge.node != nullptr && dxs[i].defined()) arrive(edge.node, edge.output, std::move(dxs[i]), &node);
    }
    if (!options_.retain_graph) node.inputs.clear();
  }

  void arrive(const std::shared_ptr<Node>& node, int output, Tensor gradient, const Node* from = nullptr) {
    if (node->leaf && !node->wants_grad) return;
    const OutputInfo& info = node->outputs[static_cast<size_t>(output)];
    WEFT_CHECK(gradient.shape() == info.shape && gradient.dtype() == info.dtype && gradient.device() == info.device,
               "backward of {}: the gradient for the output of {} should be {} {}, got {}", from != nullptr ? from->op : "the caller",
               node->op, info.dtype, info.shape, gradient);
    auto [entry, fresh] = arrived_.try_emplace(node.get());
    if (fresh) {
      entry->second.resize(node->outputs.size());
      queue_.push({node});
    }
    add_gradient(entry->second[static_cast<size_t>(output)], std::move(gradient));
  }

  static void check_unchanged(const Snapshot& memory, const char* role, size_t i, const Node& node) {
    WEFT_CHECK(!memory.is_stale(),
               "backward: {} {} of {} (called at {}) was changed in place after the forward; run the forward again before backward", role,
               i, node.op, place(node.at));
  }

  static void check_backward(const Node& node, const Grads& dxs) {
    for (size_t i = 0; i < dxs.size(); ++i) {
      const int64_t bad = nonfinite_count(dxs[i]);
      WEFT_CHECK(bad == 0, "anomaly: the backward of {} called at {} produced {} NaN or infinite elements in the gradient of input {}",
                 node.op, place(node.at), bad, i);
    }
  }

  BackwardOptions options_;
  std::priority_queue<Pending> queue_;
  std::unordered_map<Node*, Grads> arrived_;
  std::unordered_map<Node*, Grads> watched_;
  uint64_t first_watched_ = std::numeric_limits<uint64_t>::max();
};

void start_all(Pass& pass, std::span<const Tensor> ys, std::span<const Tensor> dys) {
  WEFT_CHECK(dys.empty() || dys.size() == ys.size(), "backward: {} outputs but {} cotangents", ys.size(), dys.size());
  for (size_t i = 0; i < ys.size(); ++i) pass.start(ys[i], dys.empty() ? Tensor() : dys[i]);
}

Grads kept_gradients(Pass& pass, std::span<const Tensor> xs) {
  Grads result;
  for (const Tensor& x : xs) {
    const Grads* kept = pass.watched(x.node().get());
    result.push_back(kept == nullptr || kept->empty() ? Tensor() : (*kept)[static_cast<size_t>(x.output_index())]);
  }
  return result;
}

}  // namespace

bool graph_is_retained() { return retains_graph; }

void backward(const Tensor& y, const Tensor& dy, BackwardOptions options) {
  Pass pass(options);
  pass.start(y, dy);
  pass.run(true);
}

void backward(std::span<const Tensor> ys, std::span<const Tensor> dys, BackwardOptions options) {
  Pass pass(options);
  start_all(pass, ys, dys);
  pass.run(true);
}

Grads gradients(std::span<const Tensor> ys, std::span<const Tensor> dys, std::span<const Tensor> xs, BackwardOptions options) {
  Pass pass(options);
  for (const Tensor& x : xs) {
    WEFT_CHECK(requires_grad(x), "gradients: {} does not require a gradient; make it a parameter first", x);
    pass.watch(x.node().get());
  }
  start_all(pass, ys, dys);
  pass.run(false);
  return kept_gradients(pass, xs);
}

Grads gradients_down_to(std::span<const Tensor> xs, const Tensor& y, const Tensor& dy) {
  Pass pass({});
  for (const Tensor& x : xs) {
    if (requires_grad(x)) pass.watch(x.node().get());
  }
  pass.start(y, dy);
  pass.run(false, true);
  return kept_gradients(pass, xs);
}

Tensor detach(const Tensor& x) {
  Tensor y = x;
  y.attach(nullptr, 0);
  return y;
}

}  // namespace weft
