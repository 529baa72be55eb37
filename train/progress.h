// The progress of a run: on a terminal one line that is redrawn, otherwise plain lines.
//
//     [=========>          ] 1200/2000  loss 1.8345  val 1.9012  52.3k tokens/s  1m 12s left
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <optional>
#include <string>

namespace weft {

struct ProgressOptions {
  int64_t total_steps = 0;
  /// Steps that an earlier part of the run has done: the time left is estimated from the others.
  int64_t first_step = 0;
  std::FILE* stream = stderr;
  /// Unset: whether `stream` is a terminal that can redraw a line (TERM is not "dumb").
  std::optional<bool> terminal = {};
  /// Columns; unset: the terminal's, asked again every time.
  std::optional<int> columns = {};
};

class Progress {
 public:
  explicit Progress(const ProgressOptions& options);
  /// Leaves the last line standing.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Shows the state after `step` steps. The last validation loss stays on the line.
  void update(int64_t step, double loss, double tokens_per_second, std::optional<double> val_loss = {});
  /// A line of its own, above the progress line.
  void message(const std::string& text);
  /// Ends the progress line; later output starts below it.
  void finish();

 private:
  void draw();
  int columns() const;
  ProgressOptions options_;
  bool terminal_;
  std::chrono::steady_clock::time_point start_;
  std::optional<double> val_loss_;
  std::string line_;  // on a terminal: what stands there now
};

/// What a progress line shows.
struct ProgressState {
  int64_t step = 0, total_steps = 0;
  double loss = 0;
  std::optional<double> val_loss = {};
  double tokens_per_second = 0;
  /// NaN: not known yet.
  double seconds_left = std::numeric_limits<double>::quiet_NaN();
};

/// The redrawn line, in at most `columns` columns: a bar as wide as fits, and what does not fit is left out from the right.
std::string progress_line(const ProgressState& state, int columns);
/// The line without a bar.
std::string plain_line(const ProgressState& state);

/// "45s", "3m 20s", "2h 05m", "3d 4h".
std::string format_duration(double seconds);
/// "950", "52.3k", "1.20M".
std::string format_rate(double per_second);

}  // namespace weft
