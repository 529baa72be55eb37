// The backward pass: nodes in decreasing order of creation, gradients added up where they meet, closures freed as it goes.
#include <algorithm>
#include <limits>
#include <queue>
#include <unordered_map>

#include "weft/autograd/node.h"
#include "weft/core/kernels.h"

namespace weft {

namespace {

thread_local bool retains_graph = false;  // of the innermost backward that runs on this thread

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
      dy = ones(y.shape(), y.options());
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
               detail::place(node.at));
    for (size_t i = 0; i < node.inputs.size(); ++i) check_unchanged(node.inputs[i].memory, "input", i, node);
    for (size_t i = 0; i < node.outputs.size(); ++i) check_unchanged(node.outputs[i].memory, "output", i, node);
    Grads dxs = node.backward(dys);
    WEFT_CHECK(dxs.size() == node.inputs.size(), "backward of {}: returned {} gradients for {} inputs", node.op, dxs.size(),
               node.inputs.size());
    if (detail::anomaly_mode_on()) check_backward(node, dxs);
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
               i, node.op, detail::place(node.at));
  }

  static void check_backward(const Node& node, const Grads& dxs) {
    for (size_t i = 0; i < dxs.size(); ++i) {
      const int64_t bad = detail::anomalies(dxs[i]).total();
      WEFT_CHECK(bad == 0, "anomaly: the backward of {} called at {} produced {} NaN or infinite elements in the gradient of input {}",
                 node.op, detail::place(node.at), bad, i);
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

Grads gradients(const Tensor& y, const std::vector<Tensor>& xs, const Tensor& dy, BackwardOptions options) {
  return gradients({&y, 1}, {&dy, 1}, xs, options);
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

}  // namespace weft
