#include "lm_run.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstring>
#include <limits>
#include <tuple>

#include "lm_main.h"
#include "weft/autograd/ops.h"
#include "weft/core/error.h"
#include "weft/core/random.h"
#include "weft/nn/module.h"
#include "weft/train/generate.h"
#include "weft/train/loss_plot.h"
#include "weft/train/safetensors.h"

namespace weft::programs {
namespace {

namespace fs = std::filesystem;

volatile std::sig_atomic_t received_signal = 0;

// What a run writes into its folder, beside the checkpoints.
constexpr const char* run_files[] = {"config.json",       "tokenizer.json", "tokenizer.model", "metrics.jsonl",
                                     "model.safetensors", "loss.svg",       "sample.txt"};
constexpr const char* new_checkpoint = "checkpoint.new";
// In a checkpoint: settings.dim, ...
const std::string setting_prefix = "settings.";

void remove_new_checkpoint(const fs::path& folder) {
  std::error_code ignored;  // only an empty folder goes
  remove_checkpoints(folder);
  fs::remove(folder, ignored);
}

// For a shell: the text as one word.
std::string quoted(const std::string& text) {
  const auto plain = [](unsigned char c) { return std::isalnum(c) != 0 || c >= 0x80 || std::strchr("_-./+:=,@%", c) != nullptr; };
  if (!text.empty() && std::all_of(text.begin(), text.end(), plain)) return text;
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

// "1 step", "2 steps".
std::string steps_text(int64_t n) { return format("{} step{}", n, n == 1 ? "" : "s"); }

void note_signal(int number) {
  received_signal = number;
  const char text[] = "\nstopping after this batch; once more to quit without saving\n";
  const int error = errno;  // of the call that the signal came into
  if (number == SIGINT || number == SIGTERM) std::ignore = ::write(STDERR_FILENO, text, sizeof text - 1);
  errno = error;
}

// The first signal asks the loop to end after its batch; a second Ctrl-C or SIGTERM ends the program. A closed terminal may send its signal
// twice, and a closed pipe does so at every line. nohup has SIGHUP ignored, and so it stays.
void catch_signals() {
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) {
    const bool twice_ends = signal == SIGINT || signal == SIGTERM;
    struct sigaction before {};
    sigaction(signal, nullptr, &before);
    if (!twice_ends && before.sa_handler == SIG_IGN) continue;
    struct sigaction action {};
    action.sa_handler = note_signal;
    action.sa_flags = (twice_ends ? static_cast<int>(SA_RESETHAND) : 0) | SA_RESTART;
    sigaction(signal, &action, nullptr);
  }
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

bool all_finite(const std::vector<Tensor>& tensors) {
  NoGrad no_grad;
  return std::all_of(tensors.begin(), tensors.end(), [](const Tensor& x) { return std::isfinite(sum(abs(x)).item()); });
}

// In evaluation mode, with the averaged weights if there are any.
class Evaluation {
 public:
  explicit Evaluation(const RunParts& parts) : parts_(parts) {
    if (parts.ema != nullptr) averaged_.emplace(*parts.ema);
    set_training(parts_.model, false);
  }
  ~Evaluation() { set_training(parts_.model, true); }
  Evaluation(const Evaluation&) = delete;
  Evaluation& operator=(const Evaluation&) = delete;

 private:
  RunParts parts_;
  NoGrad no_grad_;
  std::optional<AveragedWeights> averaged_;
};

}  // namespace

bool Run::interrupted() { return received_signal != 0; }

Run::Run(const TrainCommand& command)
    : settings_(command.settings), program_(command.program), resumed_(command.resume), made_folder_(!fs::exists(settings_.run)) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit is then an error of the write, like a full disk
  make_folder(settings_.run);
  lock_.emplace(settings_.run);
  remove_temporary_files(settings_.run);
  std::vector<std::string> skipped;
  if (resumed_ || !command.overwrite) {
    try {
      checkpoint_ = load_checkpoint(file("checkpoint"), &skipped);
    } catch (const Error& error) {
      fail("{}\nStart the run again with --overwrite, or give another folder with --run", error.what());
    }
  }
  for (const std::string& reason : skipped) say(format("an older checkpoint is used: {}\n", reason));
  WEFT_CHECK(!resumed_ || checkpoint_, "resume: there is no checkpoint in {}; start the run again: --overwrite instead of --resume",
             file("checkpoint").string());
  WEFT_CHECK(resumed_ || !checkpoint_ || checkpoint_->step == 0,
             "{} holds a run of {}: go on with it by --resume, replace it by --overwrite, or give another folder with --run", settings_.run,
             steps_text(checkpoint_ ? checkpoint_->step : 0));
  if (resumed_) check_checkpoint();
  check_files(command);
  if (!resumed_) checkpoint_.reset();
}

// config.json may have been edited, or be another run's. Checkpoints of older versions do not hold the settings.
void Run::check_checkpoint() const {
  Settings before;
  std::vector<std::string> held;
  for (const std::string& name : fixed_settings) {
    const Json* value = checkpoint_->state.find(setting_prefix + name);
    if (value == nullptr) continue;
    before.set(name, *value);
    held.push_back(name);
  }
  check_same_settings(format("resume: {} does not fit the checkpoint", file("config.json").string()), before, to_settings(settings_), held);
}

// Files of another origin are not ours to replace, nor is the text itself. A start that was killed has left files, and says so by
// checkpoint.new.
void Run::check_files(const TrainCommand& command) const {
  std::string found;
  for (const char* name : run_files) {
    std::error_code error;
    if (!fs::exists(file(name), error)) continue;
    found += (found.empty() ? "" : ", ") + std::string(name);
    WEFT_CHECK(!fs::equivalent(file(name), settings_.data, error),
               "--data {} is a file that the run itself writes: move the text, or give another folder with --run", settings_.data);
  }
  WEFT_CHECK(found.empty() || resumed_ || command.overwrite || checkpoint_ || fs::exists(file(new_checkpoint)),
             "{} holds no run to go on with, but files that a run would replace ({}): replace them by --overwrite, or give another folder "
             "with --run",
             settings_.run, found);
}

Run::~Run() {
  if (!made_folder_ || saved_step_ >= 0) return;
  try {
    remove_new_checkpoint(file(new_checkpoint));
    std::error_code ignored;
    for (const char* name : run_files) fs::remove(file(name), ignored);
    fs::remove(file("checkpoint"), ignored);
    fs::remove(settings_.run, ignored);  // unless somebody has put something into it
  } catch (const std::exception&) {      // what cannot be removed stays
  }
}

Tokenizer Run::tokenizer(const DataFile& data) const {
  return resumed_ ? Tokenizer::load(settings_.run) : make_tokenizer(settings_.tokenizer, data.text());
}

void Run::start(const RunParts& parts) {
  parts_.emplace(parts);
  if (checkpoint_) {
    restore();
  } else {
    begin_files();
  }
  progress_.emplace(ProgressOptions{.total_steps = settings_.steps, .first_step = step_});
  start_ = line_start_ = std::chrono::steady_clock::now();
  catch_signals();
}

void Run::restore() {
  WEFT_CHECK(settings_.steps >= checkpoint_->step, "resume: {} has done {} already, and --steps is {}: give more to go on", settings_.run,
             steps_text(checkpoint_->step), settings_.steps);
  if (settings_.steps == checkpoint_->step) say(format("all steps are done ({}); to go on, give more with --steps\n", settings_.steps));
  const Settings& state = checkpoint_->state;
  WEFT_CHECK(state.unsigned_integer("data_fingerprint") == parts_->data_fingerprint,
             "resume: {} is not the text that this run has learned from (its tokens differ); give that text with --data", settings_.data);
  try {
    load_state_dict(parts_->model, checkpoint_->part("model"));
  } catch (const Error& error) {
    fail("resume: the model of {} is not that of the checkpoint in {}: {}", file("config.json").string(), file("checkpoint").string(),
         error.what());
  }
  parts_->optimizer.load_state_dict(checkpoint_->part("optimizer"));
  if (parts_->ema != nullptr) parts_->ema->load_state_dict(checkpoint_->part("ema"));
  if (parts_->loss_scale != nullptr) {
    parts_->loss_scale->load_state_dict(checkpoint_->part("loss_scale"));
    reported_skips_ = parts_->loss_scale->skipped_steps();
  }
  default_generator() = Generator(state.unsigned_integer("random_seed"), state.unsigned_integer("random_offset"));
  step_ = saved_step_ = checkpoint_->step;
  loss_sum_ = scalar(state.number("loss_sum"), {.dtype = DType::float64, .device = parts_->optimizer.parameters()[0].device()});
  loss_count_ = state.integer("loss_count");
  seconds_before_ = state.number("seconds");
  checkpoint_.reset();
  remove_new_checkpoint(file(new_checkpoint));
  metrics_.emplace(file("metrics.jsonl"), step_);
  write_settings(file("config.json"), to_settings(settings_));
}

// The first checkpoint is written first, beside, and comes to its place last: with it the folder holds a run.
void Run::begin_files() {
  start_ = std::chrono::steady_clock::now();
  remove_checkpoints(file(new_checkpoint));
  try {
    save_checkpoint(file(new_checkpoint), state());
  } catch (const Error& error) {
    remove_new_checkpoint(file(new_checkpoint));
    fail("{}\nThe run did not begin; what the folder held is untouched", error.what());
  }
  remove_checkpoints(file("checkpoint"));
  for (const char* name : {"model.safetensors", "loss.svg", "sample.txt"}) fs::remove(file(name));
  parts_->tokenizer.save(settings_.run);
  write_settings(file("config.json"), to_settings(settings_));
  metrics_.emplace(file("metrics.jsonl"));
  make_folder(file("checkpoint"));
  for (const fs::directory_entry& entry : fs::directory_iterator(file(new_checkpoint))) {
    fs::rename(entry.path(), file("checkpoint") / entry.path().filename());
  }
  saved_step_ = 0;
  remove_new_checkpoint(file(new_checkpoint));
}

double Run::seconds() const { return seconds_before_ + seconds_since(start_); }

bool Run::is_evaluated(int64_t step) const { return parts_->data.validation_rows() > 0 && is_due(step, settings_.eval_every); }

bool Run::reads_loss() const {
  const Device device = parts_->optimizer.parameters()[0].device();
  return !device.is_cuda() || is_evaluated(step_ + 1) || is_due(step_ + 1, settings_.log_every);
}

void Run::step_done(const Tensor& loss, const Tensor& grad_norm, double lr) {
  ++step_;
  loss_sum_ = loss_sum_.defined() ? loss_sum_ + loss : loss;
  ++loss_count_;
  const bool evaluates = is_evaluated(step_);
  if (evaluates || is_due(step_, settings_.log_every)) {
    MetricsRow row{.step = step_, .loss = loss_sum() / static_cast<double>(loss_count_), .lr = lr, .grad_norm = grad_norm.item()};
    const double tokens = static_cast<double>(loss_count_ * settings_.accumulate * settings_.batch * settings_.context);
    row.tokens_per_second = tokens / seconds_since(line_start_);
    if (evaluates) row.val_loss = validation_loss();
    row.seconds = seconds();
    metrics_->write(row);
    progress_->update(step_, row.loss, row.tokens_per_second, row.val_loss);
    report_skipped_steps();
    loss_sum_ = Tensor();
    loss_count_ = 0;
    line_start_ = std::chrono::steady_clock::now();
  }
  if (is_due(step_, settings_.checkpoint_every) && step_ != settings_.steps) save();
}

void Run::report_skipped_steps() {
  if (parts_->loss_scale == nullptr) return;
  const int64_t skipped = parts_->loss_scale->skipped_steps();
  if (skipped > reported_skips_) {
    say(format("step {}: {} left out, as gradients overflowed in float16; the loss scale is now {}\n", step_,
               steps_text(skipped - reported_skips_), parts_->loss_scale->scale()));
  }
  reported_skips_ = skipped;
}

double Run::validation_loss() const {
  const Evaluation evaluation(*parts_);
  const Dataset& data = parts_->data;
  const int64_t rows = data.validation_rows(), batches = (rows + settings_.batch - 1) / settings_.batch;
  const int64_t wanted = settings_.eval_batches == 0 ? batches : std::min(batches, settings_.eval_batches);
  const Device device = parts_->optimizer.parameters()[0].device();
  double sum = 0, count = 0;
  for (int64_t i = 0; i < wanted; ++i) {
    const Batch batch = data.validation_batch(i * batches / wanted * settings_.batch, settings_.batch);
    const auto tokens = static_cast<double>(batch.targets.numel());
    sum += cross_entropy(parts_->model(to(batch.inputs, device)), to(batch.targets, device)).item() * tokens;
    count += tokens;
  }
  return sum / count;
}

void Run::save() {
  try {
    WEFT_CHECK(all_finite(parts_->optimizer.parameters()), "step {}: the weights are no longer finite; a smaller --lr may help", step_);
    metrics_->sync();
    save_checkpoint(file("checkpoint"), state());
    saved_step_ = step_;
    if (step_ > 0) write_results();
  } catch (const Error& error) {
    fail("{}\nThe last checkpoint, of step {}, is whole. When that is mended: {}", error.what(), saved_step_, how_to_resume());
  }
}

Checkpoint Run::state() const {
  Checkpoint checkpoint{.step = step_, .tensors = {}, .state = {}};
  checkpoint.add("model", state_dict(parts_->model));
  checkpoint.add("optimizer", parts_->optimizer.state_dict());
  if (parts_->ema != nullptr) checkpoint.add("ema", parts_->ema->state_dict());
  if (parts_->loss_scale != nullptr) checkpoint.add("loss_scale", parts_->loss_scale->state_dict());
  checkpoint.state.set("data_fingerprint", parts_->data_fingerprint);
  checkpoint.state.set("random_seed", default_generator().seed());
  checkpoint.state.set("random_offset", default_generator().offset());
  checkpoint.state.set("loss_sum", loss_sum());
  checkpoint.state.set("loss_count", loss_count_);
  checkpoint.state.set("seconds", seconds());
  const Settings settings = to_settings(settings_);
  for (const std::string& name : fixed_settings) checkpoint.state.set(setting_prefix + name, *settings.find(name));
  return checkpoint;
}

void Run::write_results() const {
  {
    const Evaluation evaluation(*parts_);
    TensorMap weights{.tensors = state_dict(parts_->model), .metadata = {{"step", std::to_string(step_)}}};
    for (const auto& [name, value] : weights_metadata(settings_)) weights.metadata[name] = value;
    save_safetensors(file("model.safetensors"), weights);
  }
  write_loss_plot(file("loss.svg"), read_metrics(file("metrics.jsonl")), fs::path(settings_.run).filename().string());
}

void Run::write_sample() const {
  const Evaluation evaluation(*parts_);
  Generator generator(static_cast<uint64_t>(settings_.seed));
  const std::vector<int64_t> start = start_tokens(parts_->tokenizer);
  const auto rows =
      generate(parts_->model, {start}, {.tokens = settings_.sample, .sampling = {.temperature = 0.8}, .generator = &generator});
  write_file_atomically(file("sample.txt"), parts_->tokenizer.decode(rows[0]) + "\n");
}

std::string Run::how_to_resume() const { return quoted(program_) + " --run " + quoted(settings_.run) + " --resume"; }

void Run::fail_not_finite(double loss, double grad_norm, const std::function<void()>& again) const {
  std::string where = "The step runs clean when it is repeated";
  try {
    const AnomalyMode anomaly;
    again();
  } catch (const Error& error) {
    where = error.what();
  }
  fail(
      "step {}: the loss is {} and the norm of its gradients {}\n{}\nThe last checkpoint, of step {}, is whole. To go on from it, with a "
      "smaller learning rate: {} --lr {}",
      step_ + 1, loss, grad_norm, where, saved_step_, how_to_resume(), std::min(settings_.lr / 2, TrainSettings().lr));
}

int Run::finish() {
  progress_->finish();
  save();
  if (interrupted()) {
    say(format("stopped after step {} of {}; everything is saved. To go on: {}\n", step_, settings_.steps, how_to_resume()));
    return 128 + static_cast<int>(received_signal);
  }
  write_sample();
  say(format("{} in {}; the run is in {}\n", steps_text(step_), format_duration(seconds()), settings_.run));
  return 0;
}

}  // namespace weft::programs
