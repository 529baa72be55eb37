#include "weft/train/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "weft/autograd/ops.h"
#include "weft/nn/module.h"

namespace weft {
namespace {

void check(const SamplingOptions& options) {
  WEFT_CHECK(std::isfinite(options.temperature) && options.temperature >= 0,
             "generate: the temperature must be 0 (greedy) or positive, got {}", options.temperature);
  WEFT_CHECK(options.top_k >= 0, "generate: top_k must be 0 (off) or positive, got {}", options.top_k);
  WEFT_CHECK(options.top_p > 0 && options.top_p <= 1, "generate: top_p must be in (0, 1], got {}", options.top_p);
  WEFT_CHECK(options.min_p >= 0 && options.min_p <= 1, "generate: min_p must be in [0, 1], got {}", options.min_p);
}

// A token that is still in the running, with its probability (not normalized until the end).
struct Candidate {
  int64_t token;
  double weight;
};

bool larger(const Candidate& a, const Candidate& b) { return a.weight > b.weight || (a.weight == b.weight && a.token < b.token); }

void keep_top_k(std::vector<Candidate>& candidates, int64_t k) {
  if (k == 0 || k >= static_cast<int64_t>(candidates.size())) return;
  std::nth_element(candidates.begin(), candidates.begin() + (k - 1), candidates.end(), larger);
  candidates.resize(static_cast<size_t>(k));
}

void keep_top_p(std::vector<Candidate>& candidates, double p) {
  if (p >= 1) return;
  std::sort(candidates.begin(), candidates.end(), larger);
  double total = 0, sum = 0;
  for (const Candidate& c : candidates) total += c.weight;
  size_t kept = 0;
  while (kept < candidates.size() && (kept == 0 || sum < p * total)) sum += candidates[kept++].weight;
  candidates.resize(kept);
}

void keep_min_p(std::vector<Candidate>& candidates, double p) {
  if (p <= 0) return;
  double best = 0;
  for (const Candidate& c : candidates) best = std::max(best, c.weight);
  std::erase_if(candidates, [&](const Candidate& c) { return c.weight < p * best; });
}

// One batch of rows on its way through the model: their tokens so far, and which of them have ended.
class Rows {
 public:
  Rows(const std::vector<std::vector<int64_t>>& prompts, int64_t context, Device device)
      : sequences(prompts), ended(prompts.size(), false), context_(context), device_(device) {}

  /// Feeds the last tokens of every sequence (at most `limit`), padded in front to the longest.
  Tensor feed(const LanguageModel& model, int64_t limit) {
    const auto batch = static_cast<int64_t>(sequences.size());
    std::vector<int64_t> lengths;
    for (const auto& sequence : sequences) lengths.push_back(std::min<int64_t>(static_cast<int64_t>(sequence.size()), limit));
    const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
    std::vector<int64_t> tokens(static_cast<size_t>(batch * longest), 0);
    for (int64_t b = 0; b < batch; ++b) {
      const auto& sequence = sequences[static_cast<size_t>(b)];
      std::copy(sequence.end() - lengths[static_cast<size_t>(b)], sequence.end(),
                tokens.begin() + (b + 1) * longest - lengths[static_cast<size_t>(b)]);
    }
    const bool equal = std::all_of(lengths.begin(), lengths.end(), [&](int64_t n) { return n == longest; });
    state_ = model.start(batch, equal ? Tensor() : from_vector<int64_t>(lengths, {batch}, device_));
    return model.next(from_vector<int64_t>(tokens, {batch, longest}, device_), *state_);
  }

  Tensor step(const LanguageModel& model, const std::vector<int64_t>& tokens) {
    if (state_->length() >= context_) return feed(model, std::max<int64_t>(1, context_ / 2));
    std::vector<int64_t> fed = tokens;
    std::replace(fed.begin(), fed.end(), int64_t{-1}, int64_t{0});  // ended rows keep their place in the batch
    return model.next(from_vector<int64_t>(fed, {static_cast<int64_t>(fed.size()), 1}, device_), *state_);
  }

  std::vector<std::vector<int64_t>> sequences;
  std::vector<bool> ended;

 private:
  int64_t context_;
  Device device_;
  std::unique_ptr<DecodeState> state_;
};

}  // namespace

int64_t sample_token(const float* logits, int64_t vocab_size, const SamplingOptions& options, double uniform) {
  for (int64_t token = 0; token < vocab_size; ++token) {
    WEFT_CHECK(logits[token] < INFINITY, "generate: the logit of token {} is {}; the model's weights are damaged or have diverged (NaN)",
               token, static_cast<double>(logits[token]));
  }
  const int64_t best = std::max_element(logits, logits + vocab_size) - logits;
  if (options.temperature == 0) return best;
  std::vector<Candidate> candidates;
  candidates.reserve(static_cast<size_t>(vocab_size));
  for (int64_t token = 0; token < vocab_size; ++token) {
    const double weight = std::exp((static_cast<double>(logits[token]) - logits[best]) / options.temperature);
    if (weight > 0) candidates.push_back({token, weight});
  }
  WEFT_CHECK(!candidates.empty(), "generate: the logits hold no finite value to choose from");
  keep_top_k(candidates, options.top_k);
  keep_top_p(candidates, options.top_p);
  keep_min_p(candidates, options.min_p);
  const double total =
      std::accumulate(candidates.begin(), candidates.end(), 0.0, [](double sum, const Candidate& c) { return sum + c.weight; });
  double rest = uniform * total;
  for (const Candidate& c : candidates) {
    rest -= c.weight;
    if (rest < 0) return c.token;
  }
  return candidates.back().token;  // rounding ate the last bit
}

std::vector<std::vector<int64_t>> generate(LanguageModel& model, const std::vector<std::vector<int64_t>>& prompts,
                                           const GenerateOptions& options) {
  check(options.sampling);
  WEFT_CHECK(options.tokens >= 0, "generate: the number of tokens must not be negative, got {}", options.tokens);
  WEFT_CHECK(!prompts.empty(), "generate: expected at least one prompt");
  const int64_t vocab_size = model.settings().vocab_size;
  for (const auto& prompt : prompts) {
    WEFT_CHECK(!prompt.empty(), "generate: a prompt needs at least one token to start from");
    for (int64_t token : prompt) {
      WEFT_CHECK(token >= 0 && token < vocab_size, "generate: token {} of the prompt is outside the vocabulary of {}", token, vocab_size);
    }
  }
  NoGrad no_grad;
  set_training(model, false);
  Generator& generator = options.generator != nullptr ? *options.generator : default_generator();

  const std::vector<Tensor> weights = parameters(model);
  Rows rows(prompts, model.settings().context, weights.empty() ? default_device() : weights[0].device());
  std::vector<std::vector<int64_t>> results(prompts.size());
  std::vector<int64_t> chosen;
  for (int64_t step = 0; step < options.tokens; ++step) {
    static constexpr double per_word = 1.0 / 4294967296.0;
    const Tensor logits = step == 0 ? rows.feed(model, model.settings().context) : rows.step(model, chosen);
    chosen.clear();
    const std::vector<float> values = to(to(logits, DType::float32), Device::cpu()).to_vector<float>();
    const RandomKey key = generator.next();
    for (size_t b = 0; b < prompts.size(); ++b) {
      if (rows.ended[b]) {
        chosen.push_back(-1);
        continue;
      }
      const int64_t token =
          sample_token(values.data() + static_cast<int64_t>(b) * vocab_size, vocab_size, options.sampling, key.word(b) * per_word);
      if (options.stop_token == token) {
        rows.ended[b] = true;
        chosen.push_back(-1);
        continue;
      }
      results[b].push_back(token);
      rows.sequences[b].push_back(token);
      chosen.push_back(token);
    }
    if (options.on_tokens && !options.on_tokens(chosen)) break;
    if (std::all_of(rows.ended.begin(), rows.ended.end(), [](bool ended) { return ended; })) break;
  }
  return results;
}

}  // namespace weft
