// Generation: a prompt is fed once, then one token at a time through the model's state (keys and values, or whatever it keeps).
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "weft/core/random.h"
#include "weft/train/models/language_model.h"

namespace weft {

/// How the next token is chosen from logits. Filters apply in the order top_k, top_p, min_p, after the temperature.
struct SamplingOptions {
  /// Logits are divided by it; 0 is greedy (the first largest logit).
  double temperature = 1;
  /// Keep the k largest; 0: all.
  int64_t top_k = 0;
  /// Keep the smallest set of largest tokens whose probabilities add up to at least p (nucleus sampling, Holtzman et al. 2020).
  double top_p = 1;
  /// Keep tokens of at least p times the largest probability (Nguyen et al. 2024).
  double min_p = 0;
};

/// logits [V] of one row -> token id. `uniform` in [0, 1) picks from the filtered distribution.
int64_t sample_token(const float* logits, int64_t vocab_size, const SamplingOptions& options, double uniform);

struct GenerateOptions {
  int64_t tokens = 256;
  SamplingOptions sampling = {};
  /// A row ends with this token (which is not part of the result); generation ends when all rows have.
  std::optional<int64_t> stop_token = {};
  /// Source of random numbers; unset: the default generator.
  Generator* generator = nullptr;
  /// Called after each step with the new token of every row (-1 for rows that have ended): streaming. False stops.
  std::function<bool(const std::vector<int64_t>&)> on_tokens = {};
};

/// Continues every prompt and returns the new tokens of each. Prompts may differ in length: shorter ones are padded in front, which the
/// model masks out. When a sequence outgrows the model's context, generation goes on from its last half context (which is fed again).
/// Runs in evaluation mode, without recording; the model's training mode is left off.
std::vector<std::vector<int64_t>> generate(LanguageModel& model, const std::vector<std::vector<int64_t>>& prompts,
                                           const GenerateOptions& options = {});

}  // namespace weft
