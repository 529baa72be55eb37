// metrics.jsonl: one JSON object a line for every logging step of a run.
//
//     {"step": 100, "loss": 2.41, "val_loss": null, "lr": 0.001, "grad_norm": 0.8, "tokens_per_second": 51200.0, "seconds": 12.5}
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace weft {

/// NaN and infinite numbers are written as null and read back as NaN.
struct MetricsRow {
  /// Training steps done.
  int64_t step = 0;
  /// Mean loss of the training batches since the last line, in nats per token.
  double loss = 0;
  /// Loss on the validation set, on steps that measure it.
  std::optional<double> val_loss = {};
  double lr = 0;
  /// Norm of all gradients before clipping.
  double grad_norm = 0;
  double tokens_per_second = 0;
  /// Since the start of the run, without the time between an interruption and its resume.
  double seconds = 0;
};

/// Appends lines; each reaches the file whole or, after an error, not at all.
class MetricsWriter {
 public:
  /// Starts an empty file; or goes on with the lines up to `resumed_step`, and drops later ones and a last line that was torn.
  explicit MetricsWriter(std::filesystem::path path, std::optional<int64_t> resumed_step = {});
  ~MetricsWriter();
  MetricsWriter(const MetricsWriter&) = delete;
  MetricsWriter& operator=(const MetricsWriter&) = delete;

  void write(const MetricsRow& row);
  /// Flushes to disk what was written. Call it before saving a checkpoint: lines up to its step are not written again.
  void sync();

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  int64_t size_ = 0;
};

/// All complete lines. A torn last line is passed over; any other damage is an error that names the line. Missing fields but `step` are
/// NaN.
std::vector<MetricsRow> read_metrics(const std::filesystem::path& path);

}  // namespace weft
