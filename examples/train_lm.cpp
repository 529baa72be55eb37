// train_lm: trains a language model on a text, with any attention mechanism. Everything about the run is in its folder (lm_run.h).
//
//     train_lm --data war_and_peace.txt.gz --run runs/war --attention local:window=64 --steps 5000
//     train_lm --run runs/war --resume
//     generate_lm --run runs/war --prompt "Natasha "
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <memory>

#include "lm_main.h"
#include "lm_run.h"
#include "lm_settings.h"
#include "weft/autograd/ops.h"
#include "weft/core/device.h"
#include "weft/core/error.h"
#include "weft/nn/module.h"
#include "weft/train/adam.h"
#include "weft/train/clip.h"
#include "weft/train/loss_scale.h"
#include "weft/train/sgd.h"

namespace weft::programs {
namespace {

std::unique_ptr<Optimizer> make_optimizer(LanguageModel& model, const TrainSettings& s) {
  ParameterGroup matrices{.lr = s.lr, .weight_decay = s.weight_decay}, vectors{.lr = s.lr, .weight_decay = 0};
  for (const Tensor& p : parameters(model)) (p.rank() >= 2 ? matrices : vectors).parameters.push_back(p);
  const std::vector<ParameterGroup> groups = {matrices, vectors};
  if (s.optimizer == "sgd") return std::make_unique<Sgd>(groups, SgdOptions{.momentum = s.momentum});
  if (s.optimizer == "adam") return std::make_unique<Adam>(groups, AdamOptions{.beta1 = s.beta1, .beta2 = s.beta2});
  return std::make_unique<AdamW>(groups, AdamWOptions{.beta1 = s.beta1, .beta2 = s.beta2});
}

// Bytes of memory that this process may use; 0: unknown.
double machine_memory() {
  double bytes = static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGE_SIZE));
  double container = 0;  // "max" where there is no limit
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> container) bytes = std::min(bytes, container);
  return std::max(bytes, 0.0);
}

// A model that cannot fit is refused before it is built: layers are small and many, so the system would end the program in their midst.
// On a GPU the allocation itself fails.
void check_memory(const TrainSettings& s, int64_t vocab_size, Device device) {
  if (s.depth <= 2 || device.is_cuda()) return;
  const auto parameters_with = [&](int64_t depth) {
    LanguageModelSettings settings = s.model_settings(vocab_size);
    settings.depth = depth;
    LanguageModel model = make_language_model(s.model, settings);
    return static_cast<double>(count_parameters(model));
  };
  const double one = parameters_with(1), count = one + static_cast<double>(s.depth - 1) * (parameters_with(2) - one);
  const int copies = 2 + (s.optimizer == "sgd" ? 1 : 2) + (s.ema > 0 ? 1 : 0);  // weights, gradients, moments, averages
  const double bytes = count * copies * static_cast<double>(size_of(model_dtype(s.dtype))), memory = machine_memory();
  WEFT_CHECK(memory == 0 || bytes <= memory,
             "--depth {} with --dim {} makes a model of {} million parameters; with gradients and moments that is {} GB, and this machine "
             "has {}: take a smaller one",
             s.depth, s.dim, std::llround(count * 1e-6), std::llround(bytes * 1e-9), std::llround(memory * 1e-9));
}

int train(const TrainCommand& command) {
  const TrainSettings& s = command.settings;
  if (s.threads > 0) set_num_threads(static_cast<int>(s.threads));
  const Device device = parse_device(s.device);
  set_default_device(device);
  say(format("device {}: {}\n", s.device, device_description(device)));

  const DataFile file(s.data);
  Run run(command);
  const Tokenizer tokenizer = run.tokenizer(file);
  const TokenIds ids = tokenize(tokenizer, file);
  const Dataset data(ids, {.context = s.context, .validation_fraction = s.val_fraction, .seed = static_cast<uint64_t>(s.seed)});
  check_memory(s, tokenizer.vocab_size(), device);
  manual_seed(static_cast<uint64_t>(s.seed));
  LanguageModel model = make_language_model(s.model, s.model_settings(tokenizer.vocab_size()));
  convert(model, model_dtype(s.dtype), device);
  const auto optimizer = make_optimizer(model, s);
  const auto ema = s.ema > 0 ? std::make_unique<Ema>(parameters(model), s.ema) : nullptr;
  const auto loss_scale = s.dtype == "float16" ? std::make_unique<LossScale>(device) : nullptr;
  const Schedule schedule = make_schedule(s.schedule, s.schedule_options());
  run.start({model, *optimizer, ema.get(), loss_scale.get(), data, ids.fingerprint(), tokenizer});
  say(format("data {}: {} tokens to train on, {} to validate; vocabulary {} ({})\n", s.data, data.train_tokens(), data.validation_tokens(),
             tokenizer.vocab_size(), s.tokenizer));
  say(format("model {} with {}: {} parameters; {} of {} steps done\n", s.model, s.attention, count_parameters(model), run.step(), s.steps));

  // Forward and backward of all batches of a step: the gradients add up in the parameters. Undefined: interrupted between two of them.
  const auto loss_of = [&](int64_t step) {
    Tensor loss = zeros({}, {.dtype = DType::float64, .device = device});
    for (int64_t part = 0; part < s.accumulate; ++part) {
      if (part > 0 && Run::interrupted()) return Tensor();
      const Batch batch = data.train_batch(step * s.accumulate + part, s.batch);
      const Tensor mean = cross_entropy(model(to(batch.inputs, device)), to(batch.targets, device)) / static_cast<double>(s.accumulate);
      backward(loss_scale ? loss_scale->apply(mean) : mean);
      loss = loss + to(detach(mean), DType::float64);
    }
    return loss;
  };
  for (int64_t step = run.step(); step < s.steps && !Run::interrupted(); ++step) {
    const Generator random = default_generator();
    const Tensor loss = loss_of(step);
    if (!loss.defined()) {  // the step is done again by the run that goes on
      default_generator() = random;
      optimizer->zero_grad();
      break;
    }
    Tensor norm = grad_norm(optimizer->parameters());
    if (loss_scale) norm = loss_scale->remove(norm);
    const double lr = schedule(step);
    if (run.reads_loss() && !(std::isfinite(loss.item()) && (loss_scale || std::isfinite(norm.item())))) {
      run.fail_not_finite(loss.item(), norm.item(), [&] {
        default_generator() = random;
        optimizer->zero_grad();
        loss_of(step);
      });
    }
    optimizer->set_lr(lr);
    const Tensor factor = clip_scale(norm, s.clip > 0 ? s.clip : std::numeric_limits<double>::infinity());
    optimizer->step(loss_scale ? loss_scale->remove(factor) : factor);
    if (loss_scale) loss_scale->update(norm);
    optimizer->zero_grad();
    if (ema) ema->update();
    run.step_done(loss, norm, lr);
  }
  return run.finish();
}

}  // namespace
}  // namespace weft::programs

int main(int argc, char** argv) {
  return weft::programs::run_main("train_lm", [&] {
    const auto command = weft::programs::parse_train(argc, argv);
    return command.help ? 0 : weft::programs::train(command);
  });
}
