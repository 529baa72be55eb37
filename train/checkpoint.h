// Checkpoints: everything that a resume to the same bits needs, in a folder that survives kill -9 at any instant.
//
// A checkpoint is one file, `step-000001200.safetensors`: tensors by name, and in its metadata the numbers and a checksum of it all. It is
// written under a temporary name, flushed to disk and renamed (files.h): the rename is the instant at which it exists, whole. Only then are
// older ones removed. Killed before the rename, the one before is the last; killed after it, the older ones go next time. Loading takes the
// highest step whose checksum is right.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "weft/core/tensor.h"
#include "weft/train/settings.h"

namespace weft {

struct Checkpoint {
  /// Training steps done.
  int64_t step = 0;
  /// Weights, moments, averages: each part under a prefix of its own, "model.layers.0.weight".
  std::vector<std::pair<std::string, Tensor>> tensors;
  /// Random state, data position, settings: names are free.
  Settings state;

  /// Adds tensors as PREFIX.NAME, sharing memory: `checkpoint.add("optimizer", optimizer.state_dict())`.
  void add(const std::string& prefix, const std::vector<std::pair<std::string, Tensor>>& part);
  /// The tensors of one prefix, without it. Empty if there are none.
  std::vector<std::pair<std::string, Tensor>> part(const std::string& prefix) const;
};

/// Writes a checkpoint into `folder` (created if missing), then removes older ones but the last `keep`, and any of a later step: they are
/// of a future that this run has left. An error leaves the checkpoints that were there.
void save_checkpoint(const std::filesystem::path& folder, const Checkpoint& checkpoint, int64_t keep = 1);

/// The last complete checkpoint, its tensors mapped (see load_safetensors); nothing if there is none at all. Leftovers of killed writers
/// are removed. A damaged file is passed over in favour of an older one, and the reason added to `skipped`; if no file is good, that is an
/// error.
std::optional<Checkpoint> load_checkpoint(const std::filesystem::path& folder, std::vector<std::string>* skipped = nullptr);

/// For a run that starts afresh where another one was: its checkpoints must not be taken for this run's.
void remove_checkpoints(const std::filesystem::path& folder);

}  // namespace weft
