// Whole training steps (forward, loss, backward, gradients clipped to norm 1, AdamW) and generation.
#include "bench.h"
#include "weft/autograd/ops.h"
#include "weft/train/adam.h"
#include "weft/train/clip.h"
#include "weft/train/generate.h"

namespace weft::bench {
namespace {

// Multiply-adds of the matrix products of a GPT, as operations: 12 C^2 per layer and token, the output layer, and causal attention.
double forward_operations(const LanguageModelSettings& s, int64_t batch) {
  const double C = static_cast<double>(s.dim), N = static_cast<double>(s.context), L = static_cast<double>(s.depth);
  const double tokens = static_cast<double>(batch) * N;
  return 2 * tokens * (L * 12 * C * C + C * static_cast<double>(s.vocab_size)) + static_cast<double>(batch) * L * 2 * N * N * C;
}

// The backward costs twice the forward for products with weights, 2.5 times for attention, which computes its scores again.
double step_operations(const LanguageModelSettings& s, int64_t batch) {
  const double C = static_cast<double>(s.dim), N = static_cast<double>(s.context), L = static_cast<double>(s.depth);
  return 3 * forward_operations(s, batch) + 0.5 * static_cast<double>(batch) * L * 2 * N * N * C;
}

Case training(const std::string& name, const LanguageModelSettings& settings, int64_t batch) {
  return {.name = name, .operations = step_operations(settings, batch), .set_up = [=](Device device) -> Run {
            auto model = std::make_shared<LanguageModel>(make_language_model("transformer", settings));
            convert(*model, DType::float32, device);
            auto optimizer = std::make_shared<AdamW>(parameters(*model), AdamWOptions{.lr = 1e-3});
            const Tensor ids = randint(settings.vocab_size, {batch, settings.context + 1}, device);
            const Tensor inputs = slice(ids, 1, 0, settings.context), targets = slice(ids, 1, 1, settings.context + 1);
            return [=] {
              backward(cross_entropy((*model)(inputs), targets));
              optimizer->step(clip_scale(grad_norm(optimizer->parameters()), 1.0));
              optimizer->zero_grad();
            };
          }};
}

const LanguageModelSettings enwik8 = {.vocab_size = 256, .dim = 512, .depth = 6, .heads = 8, .context = 1024};

}  // namespace

void add_training_cases(Cases& cases) {
  cases.push_back(training("train_tiny_c128_l4_n64_b12", {.vocab_size = 65, .dim = 128, .depth = 4, .heads = 4, .context = 64}, 12));
  cases.push_back(training("train_baby_c384_l6_n256_b8", {.vocab_size = 65, .dim = 384, .depth = 6, .heads = 6, .context = 256}, 8));
  cases.push_back(training("train_enwik8_c512_l6_n1024_b1", enwik8, 1));
  cases.push_back(training("train_gpt2_124m_n64_b4", {.vocab_size = 50257, .dim = 768, .depth = 12, .heads = 12, .context = 64}, 4));
}

// 256 tokens after a prompt of 256, reported for one token.
void add_generation_cases(Cases& cases) {
  constexpr int tokens = 256;
  cases.push_back({.name = "generate_enwik8",
                   .set_up = [](Device device) -> Run {
                     auto model = std::make_shared<LanguageModel>(make_language_model("transformer", enwik8));
                     convert(*model, DType::float32, device);
                     std::vector<int64_t> prompt;
                     for (int64_t i = 0; i < 256; ++i) prompt.push_back(i);
                     return [=] { generate(*model, {prompt}, {.tokens = tokens}); };
                   },
                   .results_per_run = tokens});
}

}  // namespace weft::bench
