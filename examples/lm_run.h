// A training run: its folder, and what happens between steps.
//
//     config.json          every setting
//     tokenizer.json       (and tokenizer.model for bpe)
//     metrics.jsonl        a line per logging step
//     checkpoint/          what a resume to the same bits needs: weights, moments, averages, random state, position in the data
//     model.safetensors    the weights by name (the averaged ones with --ema)
//     loss.svg, sample.txt
//
// All files are replaced as a whole or not at all, so the run survives being killed at any instant: it goes on from its last checkpoint.
// A new run writes its first checkpoint into checkpoint.new/ before it touches anything else, and moves it to its place as the last step:
// where a run is replaced, the old one goes only when there is room for the new one.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "lm_settings.h"
#include "weft/train/checkpoint.h"
#include "weft/train/data.h"
#include "weft/train/ema.h"
#include "weft/train/files.h"
#include "weft/train/loss_scale.h"
#include "weft/train/metrics.h"
#include "weft/train/optimizer.h"
#include "weft/train/progress.h"
#include "weft/train/tokenizer.h"

namespace weft::programs {

/// What a run works on.
struct RunParts {
  LanguageModel& model;
  Optimizer& optimizer;
  Ema* ema;               // nullptr: none
  LossScale* loss_scale;  // nullptr: none
  const Dataset& data;
  /// Of the tokens: tells in a resumed run whether the text is the same.
  uint64_t data_fingerprint;
  const Tokenizer& tokenizer;
};

class Run {
 public:
  /// Opens the folder: this process alone works in it from now on. An error if it holds a run, or any file that a run would
  /// replace, and neither resume nor overwrite is asked for; or if there is nothing to resume.
  explicit Run(const TrainCommand& command);
  /// Removes what was made for a run that never began.
  ~Run();
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  /// The tokenizer of a resumed run; otherwise made from the text.
  Tokenizer tokenizer(const DataFile& file) const;
  /// Takes the state of the last checkpoint over into the parts, or writes the files of a new run.
  void start(const RunParts& parts);
  /// Training steps done.
  int64_t step() const { return step_; }
  /// By Ctrl-C, SIGTERM, a closed terminal, or a closed pipe behind standard output.
  static bool interrupted();

  /// Will the loss of the coming step be read? Always on the CPU; on CUDA, where reading waits for the device, only where it is logged.
  bool reads_loss() const;
  /// After a step: logs, evaluates and saves where it is time to. Loss and norm are float64 scalars.
  void step_done(const Tensor& loss, const Tensor& grad_norm, double lr);
  /// The loss or its gradients are not finite: `again` runs the step once more, with every op watched. An error that says where the first
  /// NaN or infinity came from, and what remains.
  [[noreturn]] void fail_not_finite(double loss, double grad_norm, const std::function<void()>& again) const;
  /// Saves, writes the sample, and says what comes next. The exit code of the program.
  int finish();

 private:
  void check_files(const TrainCommand& command) const;
  void check_checkpoint() const;
  void restore();
  void begin_files();
  double validation_loss() const;
  void report_skipped_steps();
  void save();
  Checkpoint state() const;
  void write_results() const;
  void write_sample() const;
  double seconds() const;
  std::filesystem::path file(const char* name) const { return std::filesystem::path(settings_.run) / name; }
  std::string how_to_resume() const;

  TrainSettings settings_;
  std::string program_;
  bool is_due(int64_t step, int64_t every) const { return step == settings_.steps || (every > 0 && step % every == 0); }
  bool is_evaluated(int64_t step) const;
  double loss_sum() const { return loss_sum_.defined() ? loss_sum_.item() : 0; }

  bool resumed_, made_folder_;
  std::optional<FolderLock> lock_;
  std::optional<Checkpoint> checkpoint_;  // until it is restored
  std::optional<RunParts> parts_;
  std::optional<MetricsWriter> metrics_;
  std::optional<Progress> progress_;
  int64_t step_ = 0, saved_step_ = -1;
  // Since the last line of the metrics.
  Tensor loss_sum_;  // on the model's device; undefined for 0
  int64_t loss_count_ = 0;
  int64_t reported_skips_ = 0;
  std::chrono::steady_clock::time_point start_, line_start_;
  double seconds_before_ = 0;
};

}  // namespace weft::programs
