#include "weft/train/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <system_error>

#include "weft/core/error.h"
#include "weft/train/files.h"
#include "weft/train/safetensors.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view name_start = "step-", name_end = ".safetensors";
constexpr const char *state_key = "state", *step_key = "step", *checksum_key = "checksum";

fs::path file_of(const fs::path& folder, int64_t step) { return folder / fmt::format("{}{:09}{}", name_start, step, name_end); }

// Files by step.
std::map<int64_t, fs::path> files_in(const fs::path& folder) {
  std::map<int64_t, fs::path> files;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (!name.starts_with(name_start) || !name.ends_with(name_end) || name.size() <= name_start.size() + name_end.size()) continue;
    const char *from = name.data() + name_start.size(), *to = name.data() + name.size() - name_end.size();
    int64_t step = -1;
    const auto parsed = std::from_chars(from, to, step);
    if (parsed.ec == std::errc() && parsed.ptr == to && step >= 0) files[step] = entry->path();
  }
  return files;
}

// Of names, types, shapes and elements in order, and of the state.
std::string checksum_of(const std::vector<std::pair<std::string, Tensor>>& tensors, const std::string& step, const std::string& state) {
  uint64_t sum = 0;
  const auto add = [&](const void* data, size_t bytes) { sum = checksum(data, static_cast<int64_t>(bytes), sum); };
  for (const auto& [name, tensor] : tensors) {
    const std::string label = format("{} {} {}", name, tensor.dtype(), tensor.shape());  // not the device
    add(label.data(), label.size());
    const Tensor host = to_host(tensor);
    add(host.raw(), static_cast<size_t>(host.bytes()));
  }
  add(step.data(), step.size());
  add(state.data(), state.size());
  return std::to_string(sum);
}

const std::string& metadata_of(const TensorMap& map, const char* key, const fs::path& file) {
  const auto found = map.metadata.find(key);
  WEFT_CHECK(found != map.metadata.end(), "{}: not a checkpoint: it has no \"{}\"", file.string(), key);
  return found->second;
}

Checkpoint read(const fs::path& file, int64_t step) {
  TensorMap map = load_safetensors(file);
  const std::string &state = metadata_of(map, state_key, file), &step_text = metadata_of(map, step_key, file);
  WEFT_CHECK(metadata_of(map, checksum_key, file) == checksum_of(map.tensors, step_text, state),
             "{}: damaged: the checksum does not match the contents", file.string());
  WEFT_CHECK(step_text == std::to_string(step), "{}: the checkpoint is of step {}", file.string(), step_text);
  Checkpoint checkpoint{.step = step, .tensors = {}, .state = Settings(parse_json(state, file.string()), file.string())};
  checkpoint.tensors = std::move(map.tensors);
  return checkpoint;
}

}  // namespace

void Checkpoint::add(const std::string& prefix, const std::vector<std::pair<std::string, Tensor>>& part) {
  for (const auto& [name, tensor] : part) tensors.emplace_back(format("{}.{}", prefix, name), tensor);
}

std::vector<std::pair<std::string, Tensor>> Checkpoint::part(const std::string& prefix) const {
  std::vector<std::pair<std::string, Tensor>> found;
  const std::string start = prefix + ".";
  for (const auto& [name, tensor] : tensors) {
    if (name.starts_with(start)) found.emplace_back(name.substr(start.size()), tensor);
  }
  return found;
}

void save_checkpoint(const fs::path& folder, const Checkpoint& checkpoint, int64_t keep) {
  WEFT_CHECK(checkpoint.step >= 0, "save_checkpoint: the step must not be negative, got {}", checkpoint.step);
  WEFT_CHECK(keep >= 1, "save_checkpoint: at least one checkpoint is kept, got {}", keep);
  make_folder(folder);

  TensorMap map;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    WEFT_CHECK(tensor.defined(), "save_checkpoint: tensor \"{}\" is undefined", name);
    map.tensors.emplace_back(name, to_host(tensor));
  }
  const std::string step = std::to_string(checkpoint.step), state = dump(checkpoint.state.json());
  map.metadata = {{state_key, state}, {step_key, step}, {checksum_key, checksum_of(map.tensors, step, state)}};
  save_safetensors(file_of(folder, checkpoint.step), map);

  std::error_code ignored;  // what cannot be removed now is removed next time
  int64_t kept = 0;
  const std::map<int64_t, fs::path> files = files_in(folder);
  for (auto file = files.rbegin(); file != files.rend(); ++file) {
    const bool future = file->first > checkpoint.step;
    if (future || kept >= keep) {
      fs::remove(file->second, ignored);
    } else {
      ++kept;
    }
  }
}

std::optional<Checkpoint> load_checkpoint(const fs::path& folder, std::vector<std::string>* skipped) {
  remove_temporary_files(folder);
  const std::map<int64_t, fs::path> files = files_in(folder);
  std::string reasons;
  for (auto file = files.rbegin(); file != files.rend(); ++file) {
    try {
      return read(file->second, file->first);
    } catch (const Error& error) {
      if (skipped != nullptr) skipped->push_back(error.what());
      reasons += format("\n  {}", error.what());
    }
  }
  WEFT_CHECK(files.empty(), "{}: no checkpoint can be read:{}", folder.string(), reasons);
  return {};
}

void remove_checkpoints(const fs::path& folder) {
  remove_temporary_files(folder);
  for (const auto& [step, file] : files_in(folder)) {
    std::error_code error;
    fs::remove(file, error);
    WEFT_CHECK(!error, "{}: cannot remove: {}", file.string(), error.message());
  }
}

}  // namespace weft
