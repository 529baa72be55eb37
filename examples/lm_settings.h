// Settings of train_lm and generate_lm: one list of names serves the command line, --help and config.json.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "weft/train/models/language_model.h"
#include "weft/train/schedule.h"
#include "weft/train/settings.h"
#include "weft/train/tokenizer.h"

namespace weft::programs {

struct TrainSettings {
  std::string data, run = "runs/lm", tokenizer = "char";
  double val_fraction = 0.1;

  std::string model = "transformer", attention = "dot_product";
  int64_t dim = 128, depth = 4, heads = 4, context = 64;
  double dropout = 0;
  std::string dtype = "float32";

  int64_t steps = 2000, batch = 12, accumulate = 1;
  std::string optimizer = "adamw", schedule = "cosine";
  double lr = 1e-3, min_lr = 1e-4, weight_decay = 0.1, beta1 = 0.9, beta2 = 0.99, momentum = 0.9, clip = 1, ema = 0;
  int64_t warmup = 100, seed = 1;

  int64_t log_every = 50, eval_every = 250, eval_batches = 50, checkpoint_every = 250, sample = 500, threads = 0;
  std::string device = "cpu";

  /// f(group, name, value, help) for every setting.
  void visit(auto&& f) {
    const char* group = "Data";
    f(group, "data", data, "text to learn from, as it is or .gz");
    f(group, "run", run, "folder that keeps everything about the run");
    f(group, "tokenizer", tokenizer, "char, byte, or bpe:vocab_size=N (learned from the data)");
    f(group, "val-fraction", val_fraction, "part of the text, at its end, that is kept for validation; 0: none");
    group = "Model";
    f(group, "model", model, "language model, with options of its own: transformer:positions=rotary,norm=rms");
    f(group, "attention", attention, "attention mechanism, with options: local:window=64");
    f(group, "dim", dim, "width of the model");
    f(group, "depth", depth, "layers");
    f(group, "heads", heads, "attention heads; divide dim");
    f(group, "context", context, "longest sequence, in tokens");
    f(group, "dropout", dropout, "probability of dropping an activation in training");
    f(group, "dtype", dtype, "float32, float64; on cuda also bfloat16 or float16, with float32 master weights");
    group = "Training";
    f(group, "steps", steps, "training steps in all");
    f(group, "batch", batch, "sequences in a batch");
    f(group, "accumulate", accumulate, "batches whose gradients are added up for one step");
    f(group, "optimizer", optimizer, "adamw, adam or sgd");
    f(group, "lr", lr, "largest learning rate");
    f(group, "min-lr", min_lr, "learning rate at the end of the schedule");
    f(group, "warmup", warmup, "steps over which the learning rate rises");
    f(group, "schedule", schedule, "after that: cosine, linear, inverse_sqrt or constant");
    f(group, "weight-decay", weight_decay, "of weight matrices; not of biases and norms");
    f(group, "beta1", beta1, "adam: decay of the mean of gradients");
    f(group, "beta2", beta2, "adam: decay of the mean of their squares");
    f(group, "momentum", momentum, "sgd: momentum");
    f(group, "clip", clip, "largest norm of all gradients together; 0: any");
    f(group, "ema", ema, "decay of averaged weights, which are then evaluated and saved; 0: none");
    f(group, "seed", seed, "of weights, data order and dropout");
    group = "Watching";
    f(group, "log-every", log_every, "steps between lines of metrics.jsonl");
    f(group, "eval-every", eval_every, "steps between validations; 0: only at the end");
    f(group, "eval-batches", eval_batches, "batches of a validation, spread over the validation text; 0: all of it");
    f(group, "checkpoint-every", checkpoint_every, "steps between checkpoints; 0: only at the end");
    f(group, "sample", sample, "tokens of the sample that is written at the end");
    group = "Machine";
    f(group, "threads", threads, "threads; 0: one per core");
    f(group, "device", device, "cpu, cuda or cuda:N");
  }

  LanguageModelSettings model_settings(int64_t vocab_size) const {
    return {.vocab_size = vocab_size,
            .dim = dim,
            .depth = depth,
            .heads = heads,
            .context = context,
            .dropout = dropout,
            .attention = attention};
  }
  ScheduleOptions schedule_options() const { return {.lr = lr, .min_lr = min_lr, .warmup_steps = warmup, .total_steps = steps}; }
};

/// The dtype of that name, of those that models compute in.
DType model_dtype(const std::string& name);

struct TrainCommand {
  TrainSettings settings;
  /// As it was called: what messages say to call again.
  std::string program = "train_lm";
  bool resume = false, overwrite = false;
  /// --help was given, and printed.
  bool help = false;
};

/// Reads the command line. With --resume the settings of the run's config.json are the defaults; what must not change is an error that says
/// which setting differs. Every error is a weft::Error.
TrainCommand parse_train(int argc, char** argv);

/// An error if a value is out of its range; `where` opens the message.
void check(const TrainSettings& settings, const std::string& where = "");

/// What the weights, the moments and the order of the data depend on, by name: the same through all of a run.
extern const std::vector<std::string> fixed_settings;

/// The settings under their names, with underscores.
Settings to_settings(TrainSettings settings);
/// The inverse, for a config.json. Missing names keep their defaults; unknown ones are an error that begins with `where`.
TrainSettings from_settings(const Settings& settings, const std::string& where);

/// What model.safetensors says about the model it is of, where the shapes of its weights do not.
std::map<std::string, std::string> weights_metadata(const TrainSettings& settings);

struct GenerateSettings {
  std::string run = "runs/lm", prompt;
  int64_t tokens = 500, top_k = 0, seed = 1, threads = 0;
  double temperature = 0.8, top_p = 1, min_p = 0;
  std::string device = "cpu";
  bool help = false;
};

GenerateSettings parse_generate(int argc, char** argv);

/// What a model goes on from when there is no prompt: a line end, or the first token if the vocabulary has none.
std::vector<int64_t> start_tokens(const Tokenizer& tokenizer);

}  // namespace weft::programs
