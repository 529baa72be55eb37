// A run repeats: the same seed, machine and thread count give the same losses to the bit, other thread counts to rounding; and training
// leaves no memory behind.
#include <cmath>

#include "testing.h"
#include "weft/nn/module.h"
#include "weft/train/adam.h"
#include "weft/train/clip.h"
#include "weft/train/ema.h"
#include "weft/train/models/language_model.h"

using namespace weft;
using testing::close;
using testing::ThreadCount;

namespace {

// Long enough rows that kernels do use several threads.
const LanguageModelSettings settings = {.vocab_size = 65, .dim = 96, .depth = 2, .heads = 4, .context = 64, .dropout = 0.1};

struct Training {
  LanguageModel model;
  AdamW optimizer;
  Generator data{7};

  explicit Training(const LanguageModelSettings& with = settings)
      : model((manual_seed(3), make_language_model("transformer", with))),
        optimizer(parameters(model), {.lr = 1e-3, .weight_decay = 0.1}) {}

  double step() {
    const LanguageModelSettings& s = model.settings();
    GeneratorScope scope(data);
    const Tensor ids = randint(s.vocab_size, {8, s.context + 1});
    const Tensor loss = cross_entropy(model(slice(ids, 1, 0, s.context)), slice(ids, 1, 1, s.context + 1));
    backward(loss);
    optimizer.step(clip_scale(grad_norm(optimizer.parameters()), 1.0));
    optimizer.zero_grad();
    return loss.item();
  }

  std::vector<double> steps(int count) {
    std::vector<double> losses;
    for (int i = 0; i < count; ++i) losses.push_back(step());
    return losses;
  }
};

}  // namespace

TEST_CASE("determinism: the same seed gives the same losses and weights to the bit") {
  for (int threads : {1, 2, 3}) {
    CAPTURE(threads);
    const ThreadCount scope(threads);
    Training a, b;
    CHECK(a.steps(6) == b.steps(6));
    const StateDict first = state_dict(a.model), second = state_dict(b.model);
    for (size_t i = 0; i < first.size(); ++i) CHECK(close(first[i].second, second[i].second, 0));
  }
}

TEST_CASE("determinism: thread counts differ by rounding only") {
  std::vector<double> one;
  for (int threads : {1, 2, 3}) {
    CAPTURE(threads);
    const ThreadCount scope(threads);
    Training training;
    const std::vector<double> losses = training.steps(6);
    if (one.empty()) one = losses;
    for (size_t i = 0; i < losses.size(); ++i) CHECK(std::fabs(losses[i] - one[i]) <= 1e-6 * one[i]);
  }
}

TEST_CASE("determinism: weights, moments and random state are all that a continued run needs") {
  Training whole;
  whole.steps(3);
  Training continued;
  load_state_dict(continued.model, state_dict(whole.model));
  continued.optimizer.load_state_dict(whole.optimizer.state_dict());
  continued.data = whole.data;
  CHECK(continued.steps(3) == whole.steps(3));
}

TEST_CASE("memory: a training step repeated leaves bytes_in_use as it was") {
  const int repeats = weft::testing::is_slow() ? 50 : 1000;
  Training training({.vocab_size = 17, .dim = 16, .depth = 2, .heads = 2, .context = 12, .dropout = 0.1});
  Ema ema(parameters(training.model));
  training.steps(2);
  const int64_t before = bytes_in_use();
  reset_peak_bytes();
  training.steps(2);
  const int64_t peak = peak_bytes();
  for (int i = 0; i < repeats; ++i) {
    training.step();
    ema.update();
  }
  CHECK(bytes_in_use() == before);
  CHECK(peak_bytes() == peak);
}
