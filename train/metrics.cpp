#include "weft/train/metrics.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <limits>
#include <system_error>

#include "weft/core/error.h"
#include "weft/train/files.h"
#include "weft/train/json.h"

namespace weft {
namespace {

Json number_or_null(double number) { return std::isfinite(number) ? Json(number) : Json(); }

std::string line_of(const MetricsRow& row) {
  return dump(Json::Object{{"step", row.step},
                           {"loss", number_or_null(row.loss)},
                           {"val_loss", row.val_loss ? number_or_null(*row.val_loss) : Json()},
                           {"lr", number_or_null(row.lr)},
                           {"grad_norm", number_or_null(row.grad_norm)},
                           {"tokens_per_second", number_or_null(row.tokens_per_second)},
                           {"seconds", number_or_null(row.seconds)}}) +
         "\n";
}

MetricsRow parse_line(std::string_view line, const std::string& where) {
  const Json json = parse_json(line, where);
  const Json* step = json.find("step");
  WEFT_CHECK(step != nullptr && step->as_integer(), "{}: expected an object with an integer \"step\"", where);
  const auto number = [&](const char* name) {
    const Json* value = json.find(name);
    if (value == nullptr || value->is_null()) return std::numeric_limits<double>::quiet_NaN();
    WEFT_CHECK(value->as_number(), "{}: \"{}\" should be a number, found {}", where, name, dump(*value));
    return *value->as_number();
  };
  MetricsRow row{.step = *step->as_integer(),
                 .loss = number("loss"),
                 .lr = number("lr"),
                 .grad_norm = number("grad_norm"),
                 .tokens_per_second = number("tokens_per_second"),
                 .seconds = number("seconds")};
  const double val_loss = number("val_loss");
  if (!std::isnan(val_loss)) row.val_loss = val_loss;
  return row;
}

// Calls f(row, offset of its line) for every complete line.
template <class F>
void for_each_line(std::string_view text, const std::string& file, F f) {
  int64_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    if (end == std::string_view::npos) return;
    f(parse_line(text.substr(at, end - at), format("{}:{}", file, ++number)), static_cast<int64_t>(at));
    at = end + 1;
  }
}

}  // namespace

MetricsWriter::MetricsWriter(std::filesystem::path path, std::optional<int64_t> resumed_step) : path_(std::move(path)) {
  std::error_code no_file;
  if (resumed_step && std::filesystem::exists(path_, no_file)) {
    const std::string text = read_file(path_);
    const size_t last_end = text.rfind('\n');
    size_ = last_end == std::string::npos ? 0 : static_cast<int64_t>(last_end) + 1;
    try {
      for_each_line(text, path_.string(), [&](const MetricsRow& row, int64_t begin) {
        if (row.step > *resumed_step) size_ = std::min(size_, begin);
      });
    } catch (const Error& error) {  // which lines to give up is for the owner of the file to say
      fail("{}\nTo go on without that line, remove it from {}", error.what(), path_.string());
    }
  }
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail_system(path_, "write", errno);
  if (::ftruncate(descriptor_, size_) != 0) {
    const int error = errno;
    ::close(descriptor_);
    fail_system(path_, "shorten", error);
  }
}

MetricsWriter::~MetricsWriter() { ::close(descriptor_); }

void MetricsWriter::write(const MetricsRow& row) {
  const std::string line = line_of(row);
  try {
    write_fully(descriptor_, line.data(), static_cast<int64_t>(line.size()), path_);
  } catch (const Error&) {
    if (::ftruncate(descriptor_, size_) != 0) fail_system(path_, "take back part of a line", errno);
    throw;
  }
  size_ += static_cast<int64_t>(line.size());
}

void MetricsWriter::sync() { flush_to_disk(descriptor_, path_); }

std::vector<MetricsRow> read_metrics(const std::filesystem::path& path) {
  const MappedFile file(path);
  std::vector<MetricsRow> rows;
  for_each_line(file.text(), path.string(), [&](const MetricsRow& row, int64_t) { rows.push_back(row); });
  return rows;
}

}  // namespace weft
