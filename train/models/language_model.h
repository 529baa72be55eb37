// A language model value, chosen by name: what train_lm and generate_lm work with.
//
// A model's source says WEFT_LANGUAGE_MODEL(name) once; the build collects the names (cmake/weft_collect.cmake).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "weft/autograd/graph.h"
#include "weft/core/spec.h"
#include "weft/nn/module.h"

namespace weft {

/// What every language model understands; options of one model only stand in its spec ("transformer:norm=rms,positions=rotary").
struct LanguageModelSettings {
  int64_t vocab_size = 256;
  int64_t dim = 512;
  int64_t depth = 6;
  int64_t heads = 8;
  /// Longest sequence that the model is built for.
  int64_t context = 1024;
  double dropout = 0;
  /// Mechanism spec, for models that take one.
  std::string attention = "dot_product";
};

/// What a model remembers between steps of generation: each model derives its own (keys and values, recurrent states).
class DecodeState {
 public:
  virtual ~DecodeState() = default;
  /// Tokens seen so far, per row.
  virtual int64_t length() const = 0;
};

/// Base of the type-erased value. A model is an ordinary module (nn/module.h), and ModelBody below wraps it.
class LanguageModelBody {
 public:
  virtual ~LanguageModelBody() = default;
  /// tokens int64 [B, N] -> logits [B, N, V].
  virtual Tensor logits(const Tensor& tokens) = 0;
  /// A fresh state for `batch` rows; `lengths` int64 [B] (optional): prompts of unequal length, padded in front to the longest.
  virtual std::unique_ptr<DecodeState> start(int64_t batch, const Tensor& lengths) = 0;
  /// Feeds the next tokens int64 [B, n] and returns the logits of the last one, [B, V].
  virtual Tensor next(const Tensor& tokens, DecodeState& state) = 0;
  virtual std::vector<NamedTensor> tensors() = 0;
  virtual void set_training(bool on) = 0;
};

/// The body of a module M that has, besides its `visit`,
///
///     Tensor operator()(const Tensor& tokens) const;                    logits [B, N, V]
///     State start(int64_t batch, const Tensor& lengths) const;          State: a DecodeState of the model's own
///     Tensor next(const Tensor& tokens, State& state) const;            logits of the last token, [B, V]
template <class M>
class ModelBody : public LanguageModelBody {
 public:
  using State = decltype(std::declval<M&>().start(int64_t{1}, Tensor()));

  explicit ModelBody(M model) : model_(std::move(model)) {}
  Tensor logits(const Tensor& tokens) override { return model_(tokens); }
  std::unique_ptr<DecodeState> start(int64_t batch, const Tensor& lengths) override {
    return std::make_unique<State>(model_.start(batch, lengths));
  }
  Tensor next(const Tensor& tokens, DecodeState& state) override {
    auto* own = dynamic_cast<State*>(&state);
    WEFT_CHECK(own != nullptr, "LanguageModel: the state was started by a model of another kind; start one with this model");
    return model_.next(tokens, *own);
  }
  std::vector<NamedTensor> tensors() override { return detail::collect(model_); }
  void set_training(bool on) override { weft::set_training(model_, on); }

 private:
  M model_;
};

/// A shared handle on a model, and a module: parameters(model), state_dict(model), set_training(model, on) work.
class LanguageModel {
 public:
  LanguageModel() = default;
  LanguageModel(std::string spec, LanguageModelSettings settings, std::shared_ptr<LanguageModelBody> body)
      : spec_(std::move(spec)), settings_(std::move(settings)), body_(std::move(body)) {}

  Tensor operator()(const Tensor& tokens) const { return body().logits(tokens); }
  std::unique_ptr<DecodeState> start(int64_t batch, const Tensor& lengths = {}) const { return body().start(batch, lengths); }
  Tensor next(const Tensor& tokens, DecodeState& state) const { return body().next(tokens, state); }
  const std::string& spec() const { return spec_; }
  const LanguageModelSettings& settings() const { return settings_; }
  /// An empty one has no tensors and nothing to switch.
  void visit(auto&& f) {
    if (!body_) return;
    for (NamedTensor& entry : body_->tensors()) f(entry.name, entry);
  }
  void set_training(bool on) {
    if (body_) body_->set_training(on);
  }

 private:
  LanguageModelBody& body() const {
    WEFT_CHECK(body_ != nullptr, "LanguageModel: empty; build it with make_language_model(\"transformer\", ...)");
    return *body_;
  }

  std::string spec_;
  LanguageModelSettings settings_;
  std::shared_ptr<LanguageModelBody> body_;
};

/// Builds a model from "name" or "name:option=value,...". Unknown names list the known ones and the nearest.
LanguageModel make_language_model(const std::string& spec, const LanguageModelSettings& settings);
/// All names, sorted.
std::vector<std::string> language_model_names();

/// A model's option that is one of a few values with names; an error lists them.
template <class Value>
Value chosen(Spec& arguments, const std::string& option, Value fallback, const std::vector<std::pair<Value, std::string>>& values) {
  std::vector<std::string> names;
  std::string name;
  for (const auto& [value, text] : values) {
    names.push_back(text);
    if (value == fallback) name = text;
  }
  name = arguments.choice(option, name, names);
  for (const auto& [value, text] : values) {
    if (text == name) return value;
  }
  return fallback;
}

}  // namespace weft

/// At namespace weft scope in train/models/NAME.cpp, with `arguments` (Spec&) and `settings` to build from:
///
///     WEFT_LANGUAGE_MODEL(gru) { return std::make_shared<ModelBody<GruLM>>(GruLM({.vocab_size = settings.vocab_size, .dim =
///     settings.dim})); }
#define WEFT_LANGUAGE_MODEL(name)                                                                 \
  std::shared_ptr<LanguageModelBody> make_language_model_##name([[maybe_unused]] Spec& arguments, \
                                                                [[maybe_unused]] const LanguageModelSettings& settings)
