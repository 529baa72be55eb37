// A language model value, chosen by name: what train_lm and generate_lm work with.
//
// A model's source says WEFT_LANGUAGE_MODEL(name) once; the build collects the names (cmake/weft_collect.cmake).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "weft/autograd/graph.h"
#include "weft/core/spec.h"

namespace weft {

/// What every language model understands; options of one model only stand in its spec ("transformer:norm=rms_norm,positions=rotary").
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

/// Base of the type-erased value. A model is an ordinary module (nn/module.h) wrapped by a body of a few lines.
class LanguageModelBody {
 public:
  virtual ~LanguageModelBody() = default;
  /// tokens int64 [B, N] -> logits [B, N, V].
  virtual Tensor logits(const Tensor& tokens) = 0;
  /// A fresh state for `batch` rows; `lengths` int64 [B] (optional): prompts of unequal length, padded in front to the longest.
  virtual std::unique_ptr<DecodeState> start(int64_t batch, const Tensor& lengths) = 0;
  /// Feeds the next tokens int64 [B, n] and returns the logits of the last one, [B, V].
  virtual Tensor next(const Tensor& tokens, DecodeState& state) = 0;
  virtual void visit_tensors(const std::function<void(const std::string&, Tensor&)>& f) = 0;
  virtual void set_training(bool on) = 0;
};

/// A shared handle on a model, and a module: parameters(model), state_dict(model), set_training(model, on) work.
class LanguageModel {
 public:
  LanguageModel() = default;
  LanguageModel(std::string spec, LanguageModelSettings settings, std::shared_ptr<LanguageModelBody> body)
      : spec_(std::move(spec)), settings_(std::move(settings)), body_(std::move(body)) {}

  Tensor operator()(const Tensor& tokens) const { return body_->logits(tokens); }
  std::unique_ptr<DecodeState> start(int64_t batch, const Tensor& lengths = {}) const { return body_->start(batch, lengths); }
  Tensor next(const Tensor& tokens, DecodeState& state) const { return body_->next(tokens, state); }
  const std::string& spec() const { return spec_; }
  const LanguageModelSettings& settings() const { return settings_; }
  void visit(auto&& f) {
    if (body_) body_->visit_tensors([&](const std::string& name, Tensor& tensor) { f(name, tensor); });
  }
  void set_training(bool on) { body_->set_training(on); }

 private:
  std::string spec_;
  LanguageModelSettings settings_;
  std::shared_ptr<LanguageModelBody> body_;
};

/// Builds a model from "name" or "name:option=value,...". Unknown names list the known ones and the nearest.
LanguageModel make_language_model(const std::string& spec, const LanguageModelSettings& settings);
/// All names, sorted.
std::vector<std::string> language_model_names();

}  // namespace weft

/// At namespace weft scope in train/models/NAME.cpp; the body returns a std::shared_ptr<LanguageModelBody>.
#define WEFT_LANGUAGE_MODEL(name)                                                                 \
  std::shared_ptr<LanguageModelBody> make_language_model_##name([[maybe_unused]] Spec& arguments, \
                                                                [[maybe_unused]] const LanguageModelSettings& settings)
