// What the two halves of the engine share: a node of the graph, and what anomaly mode looks for. Not for use outside autograd/.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "weft/autograd/graph.h"

namespace weft {

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
  bool replaced = false;  // by convert: the module has another tensor in its place
  Tensor grad;
};

namespace detail {
bool anomaly_mode_on();
/// How many elements of x are NaN, and how many infinite.
struct Anomalies {
  int64_t nan = 0, infinite = 0;
  int64_t total() const { return nan + infinite; }
};
Anomalies anomalies(const Tensor& x);
/// "file:line" of a call.
std::string place(const Location& at);
}  // namespace detail

}  // namespace weft
