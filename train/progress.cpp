#include "weft/train/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>
#include <vector>

namespace weft {
namespace {

constexpr int default_columns = 80, widest_bar = 30, narrowest_bar = 6;
constexpr const char* erase_line = "\r\x1b[K";

// The parts after the step count, most important first.
std::vector<std::string> parts_of(const ProgressState& state) {
  std::vector<std::string> parts = {fmt::format("loss {:.4f}", state.loss)};
  if (state.val_loss) parts.push_back(fmt::format("val {:.4f}", *state.val_loss));
  parts.push_back(format_rate(state.tokens_per_second) + " tokens/s");
  if (std::isfinite(state.seconds_left)) parts.push_back(format_duration(state.seconds_left) + " left");
  return parts;
}

std::string steps_of(const ProgressState& state) {
  const std::string total = std::to_string(state.total_steps);
  return fmt::format("{:>{}}/{}", state.step, total.size(), total);
}

bool redraws(std::FILE* stream) {
  const char* kind = std::getenv("TERM");
  return ::isatty(::fileno(stream)) == 1 && kind != nullptr && std::string_view(kind) != "dumb";
}

}  // namespace

std::string format_duration(double seconds) {
  if (!(seconds < 1e15)) return "?";
  const auto s = static_cast<int64_t>(std::max(seconds, 0.0) + 0.5);
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m {:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h {:02}m", s / 3600, s / 60 % 60);
  return fmt::format("{}d {}h", s / 86400, s / 3600 % 24);
}

std::string format_rate(double per_second) {
  if (!(per_second < 1e15)) return "?";
  if (per_second < 999.5) return fmt::format("{:.0f}", per_second);
  if (per_second < 999'950) return fmt::format("{:.1f}k", per_second / 1e3);
  return fmt::format("{:.2f}M", per_second / 1e6);
}

std::string plain_line(const ProgressState& state) {
  std::string line = "step " + steps_of(state);
  for (const std::string& part : parts_of(state)) line += "  " + part;
  return line;
}

std::string progress_line(const ProgressState& state, int columns) {
  const auto room = static_cast<size_t>(std::max(columns, 0));
  std::string line = steps_of(state);
  for (const std::string& part : parts_of(state)) {
    if (line.size() + 2 + part.size() > room) break;
    line += "  " + part;
  }
  if (line.size() > room) return line.substr(0, room);

  const int bar = std::min(static_cast<int>(room - line.size()) - 3, widest_bar);  // two brackets and a space
  if (bar < narrowest_bar) return line;
  const double done = state.total_steps > 0 ? static_cast<double>(state.step) / static_cast<double>(state.total_steps) : 0;
  const auto full = static_cast<size_t>(std::clamp(done, 0.0, 1.0) * bar);
  std::string fill(full, '=');
  if (full < static_cast<size_t>(bar)) fill += '>';
  fill.resize(static_cast<size_t>(bar), ' ');
  return fmt::format("[{}] {}", fill, line);
}

Progress::Progress(const ProgressOptions& options)
    : options_(options), terminal_(options.terminal.value_or(redraws(options.stream))), start_(std::chrono::steady_clock::now()) {}

Progress::~Progress() { finish(); }

int Progress::columns() const {
  if (options_.columns) return *options_.columns;
  winsize size{};
  const bool known = ::ioctl(::fileno(options_.stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : default_columns;
}

void Progress::update(int64_t step, double loss, double tokens_per_second, std::optional<double> val_loss) {
  if (val_loss) val_loss_ = val_loss;
  ProgressState state{.step = step,
                      .total_steps = options_.total_steps,
                      .loss = loss,
                      .val_loss = terminal_ ? val_loss_ : val_loss,
                      .tokens_per_second = tokens_per_second};
  if (step > options_.first_step) {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
    const auto done = static_cast<double>(step - options_.first_step), left = static_cast<double>(options_.total_steps - step);
    state.seconds_left = elapsed.count() / done * left;
  }
  if (terminal_) {
    line_ = progress_line(state, columns() - 1);  // a full last column makes some terminals wrap
    draw();
  } else {
    message(plain_line(state));
  }
}

void Progress::message(const std::string& text) {
  std::fprintf(options_.stream, "%s%s\n", line_.empty() ? "" : erase_line, text.c_str());
  draw();
}

void Progress::draw() {
  if (!line_.empty()) std::fprintf(options_.stream, "%s%s", erase_line, line_.c_str());
  std::fflush(options_.stream);
}

void Progress::finish() {
  if (line_.empty()) return;
  line_.clear();
  std::fprintf(options_.stream, "\n");
  std::fflush(options_.stream);
}

}  // namespace weft
