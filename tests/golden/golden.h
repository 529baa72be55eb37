// The frame of weft_golden: reads golden cases (README.md beside this file), builds what they describe through an adapter, and compares.
#pragma once

#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "weft/nn/module.h"
#include "weft/train/json.h"

namespace weft::golden {

/// The members of a JSON object.
using Values = std::map<std::string, Json>;
/// Named tensors of a case: inputs, outputs, parameters.
using Tensors = std::map<std::string, Tensor>;

/// One file.
struct Case {
  std::string path;
  std::string kind, model, note;
  Values options, call, optimizer;
  double tolerance = 0;
  Tensors tensors;

  /// The tensors under "prefix.", by the rest of their names.
  Tensors group(const std::string& prefix) const;
};

Case read_case(const std::string& path);

/// Options of a case, read by name under the original's names. null counts as not given; what was given and never read is an error.
class Arguments {
 public:
  Arguments(std::string what, Values values) : what_(std::move(what)), values_(std::move(values)) {}

  bool has(const std::string& name) { return find(name) != nullptr; }
  int64_t integer(const std::string& name);
  int64_t integer(const std::string& name, int64_t fallback) { return has(name) ? integer(name) : fallback; }
  double number(const std::string& name);
  double number(const std::string& name, double fallback) { return has(name) ? number(name) : fallback; }
  bool flag(const std::string& name, bool fallback);
  std::string text(const std::string& name);
  std::string text(const std::string& name, const std::string& fallback) { return has(name) ? text(name) : fallback; }
  /// A number, or a list of them.
  std::vector<int64_t> integers(const std::string& name);
  std::vector<double> numbers(const std::string& name);
  /// Anything: nested modules, lists of them.
  Json json(const std::string& name);
  /// Accepted and without effect here.
  void ignore(const std::string& name) { known_.insert(name); }
  /// Accepted with one value only: the original's other values do something that is not here.
  void expect(const std::string& name, const Json& value);

  void check_all_used() const;

 private:
  const Json* find(const std::string& name);
  std::string what_;
  Values values_;
  std::set<std::string> known_;
};

/// What an adapter is given.
struct Request {
  const Case& file;
  Arguments& options;
  Arguments& call;
  /// An output that stands in the file is requested, no other.
  bool wants(const std::string& output) const { return file.tensors.contains("out." + output); }
};

/// What an adapter builds: something with tensors (or none) that maps inputs to outputs.
struct Subject {
  std::function<Tensors(const Tensors& inputs)> forward;
  /// Trajectories: the loss of one batch.
  std::function<Tensor(const Tensors& batch)> loss = {};
  std::function<std::vector<NamedTensor>()> tensors = [] { return std::vector<NamedTensor>(); };
  std::function<void(DType dtype, Device device)> convert = [](DType, Device) {};
  std::function<void(const StateDict&)> load = [](const StateDict& state) {
    WEFT_CHECK(state.empty(), "a function has no parameters, but the file holds {}", state.front().first);
  };
};

/// A Subject over a module; the caller adds `forward` (and `loss`), which share `module`.
template <class M>
Subject subject_of(std::shared_ptr<M> module) {
  Subject subject;
  subject.tensors = [module] { return detail::collect(*module); };
  subject.convert = [module](DType dtype, Device device) { weft::convert(*module, dtype, device); };
  subject.load = [module](const StateDict& state) { load_state_dict(*module, state); };
  return subject;
}

using Adapter = std::function<Subject(Request&)>;
using Adapters = std::map<std::string, Adapter>;

/// One per package, in the file of that name.
void add_torch(Adapters& adapters);
void add_attentions(Adapters& adapters);
/// All of them, by model.
const Adapters& adapters();

/// One tensor that differs, or an error.
struct Failure {
  std::string tensor = {};
  std::string text = {};
  double difference = std::numeric_limits<double>::infinity();
};

/// Runs a case; empty if it passed.
std::vector<Failure> run(const Case& file, Device device);

/// The input of that name; an error if the file has none.
const Tensor& need(const Tensors& inputs, const std::string& name);
/// The input of that name, or an undefined tensor.
Tensor get(const Tensors& inputs, const std::string& name);

}  // namespace weft::golden
