// A mechanism value: an attention mechanism chosen by name, so that it fits into every model.
//
//     Mechanism attend = make_mechanism("local:window=128", {.heads = 8, .head_dim = 64});
//     Tensor y = attend(q, k, v, {.causal = true});
//
// A mechanism's source says WEFT_MECHANISM(name) once; the build collects the names (cmake/weft_collect.cmake).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "weft/autograd/graph.h"
#include "weft/core/random.h"
#include "weft/core/spec.h"
#include "weft/nn/module.h"

namespace weft {

/// Order of the axes of q, k, v and the output: as the projection leaves them, or heads first.
enum class AttentionLayout { bnhd, bhnd };

/// What a caller of a mechanism may ask for; a mechanism that cannot honour a request says so in an error that names it.
struct AttendOptions {
  /// Key c is visible to query r iff c <= r + (M - N).
  bool causal = false;
  /// bool, true = may attend, broadcasting to [B, H, N, M].
  Tensor mask = {};
  /// Added to the scores, broadcasting to [B, H, N, M]; has a gradient.
  Tensor bias = {};
  /// int64 [B], each 0 to M: keys at and beyond this position are padding.
  Tensor key_lengths = {};
  /// Factor of the scores; unset: 1 / sqrt(head_dim).
  std::optional<double> scale = {};
  /// Probability with which attention weights are dropped, drawn from `key`.
  double dropout = 0;
  RandomKey key = {};
  /// Instead of drawn dropout: explicit multipliers [B, H, N, M] (0 or 1 / (1 - p)).
  Tensor dropout_multiplier = {};
  AttentionLayout layout = AttentionLayout::bnhd;
  /// Also return the weights [B, H, N, M] after dropout, with a gradient: costs N x M memory.
  bool return_weights = false;
  /// With return_weights only: in the mechanism's own layout, without the pairs that it never sees (for mechanisms that have one).
  bool compact_weights = false;
};

struct Attended {
  Tensor y = {};
  /// Defined on request only.
  Tensor weights = {};
};

/// What a mechanism is built for. Mechanisms with parameters of their own (projections of the sequence, gates) need the sizes; what a
/// mechanism cannot do is an error at its construction.
struct MechanismSettings {
  int64_t heads = 1;
  /// Heads of k and v; 0: heads.
  int64_t kv_heads = 0;
  int64_t head_dim = 64;
  /// Longest sequence, 0 if unknown.
  int64_t max_len = 0;
  /// Will every call be causal?
  bool causal = false;
};

/// Base of the type-erased value. A mechanism without tensors overrides `attend` alone; one that is a module goes into a ModuleBody.
class MechanismBody {
 public:
  virtual ~MechanismBody() = default;
  /// q [B, N, H, D], k and v [B, M, Hkv, D] (bnhd) -> y [B, N, H, Dv].
  virtual Attended attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options, Location at) const = 0;
  /// Its parameters and buffers under their names.
  virtual std::vector<NamedTensor> tensors() { return {}; }
  virtual void set_training(bool) {}
};

/// A mechanism that is a module: M has a `visit` and Attended operator()(q, k, v, const AttendOptions&, Location) const.
template <class M>
class ModuleBody : public MechanismBody {
 public:
  explicit ModuleBody(M module) : module_(std::move(module)) {}
  Attended attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options, Location at) const override {
    return module_(q, k, v, options, at);
  }
  std::vector<NamedTensor> tensors() override { return detail::collect(module_); }
  void set_training(bool on) override { weft::set_training(module_, on); }

 private:
  M module_;
};

/// A shared handle on a mechanism, and a module: parameters(mechanism), state_dict(mechanism), set_training(mechanism, on) work.
class Mechanism {
 public:
  Mechanism() = default;
  Mechanism(std::string spec, std::shared_ptr<MechanismBody> body) : spec_(std::move(spec)), body_(std::move(body)) {}

  Attended operator()(const Tensor& q, const Tensor& k, const Tensor& v, const AttendOptions& options = {},
                      Location at = Location::current()) const {
    WEFT_CHECK(body_ != nullptr, "Mechanism: empty; build it with make_mechanism(\"dot_product\", ...)");
    return body_->attend(q, k, v, options, at);
  }
  /// As it was asked for: "local:window=128".
  const std::string& spec() const { return spec_; }
  /// An empty one has no tensors and nothing to switch.
  void visit(auto&& f) {
    if (!body_) return;
    for (NamedTensor& entry : body_->tensors()) f(entry.name, entry);
  }
  void set_training(bool on) {
    if (body_) body_->set_training(on);
  }

 private:
  std::string spec_;
  std::shared_ptr<MechanismBody> body_;
};

/// One row of the generated table.
struct MechanismEntry {
  std::string name;
  std::function<std::shared_ptr<MechanismBody>(Spec&, const MechanismSettings&)> make;
};

/// Builds a mechanism from "name" or "name:option=value,option=value". Unknown names list the known ones and the nearest.
Mechanism make_mechanism(const std::string& spec, const MechanismSettings& settings);
/// All names, sorted.
std::vector<std::string> mechanism_names();

}  // namespace weft

/// At namespace weft scope in attention/NAME.cpp, with `arguments` (Spec&) and `settings` to build from:
///
///     WEFT_MECHANISM(local) { return std::make_shared<LocalBody>(LocalOptions{.window = arguments.integer("window", 128)}); }
///     WEFT_MECHANISM(linformer) { return std::make_shared<ModuleBody<Linformer>>(Linformer(settings.max_len)); }
#define WEFT_MECHANISM(name) \
  std::shared_ptr<MechanismBody> make_mechanism_##name([[maybe_unused]] Spec& arguments, [[maybe_unused]] const MechanismSettings& settings)
