// Training data: a text file becomes token ids, and these become batches for a language model.
//
//     DataFile file("war_and_peace.txt.gz");
//     Tokenizer tokenizer = make_tokenizer("char", file.text());
//     Dataset data(tokenize(tokenizer, file), {.context = 64});
//     Batch batch = data.train_batch(step, 12);          // inputs, targets: int64 [12, 64]
//
// A training batch is a function of (seed, step): whoever knows the step resumes at exactly the same data, in any order.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include "weft/core/tensor.h"
#include "weft/train/tokenizer.h"

namespace weft {

/// The bytes of a file, in memory: files that begin like gzip data, or are named .gz, are unpacked. Above 256 MB a file that is not packed
/// is mapped instead, and must not be changed or shortened in place while it is used (the system ends programs that read what is gone).
class DataFile {
 public:
  /// An error if the file is missing, empty, or damaged or incomplete gzip data; also for gzip data in a build without zlib.
  explicit DataFile(const std::filesystem::path& path);

  std::string_view text() const { return text_; }
  /// Keeps text() alive.
  const std::shared_ptr<const void>& owner() const { return owner_; }

 private:
  std::shared_ptr<const void> owner_;
  std::string_view text_;
};

/// Does this build read .gz files?
bool gzip_available();
/// Unpacks gzip data, all members of it; `where` opens the messages.
std::string gunzip(std::string_view packed, const std::string& where);

/// Token ids in as few bytes as the vocabulary allows (1, 2 or 4 each). A cheap handle on shared memory.
class TokenIds {
 public:
  TokenIds() = default;
  /// `width` bytes an id, from memory that `owner` keeps.
  TokenIds(std::shared_ptr<const void> owner, const void* data, int64_t size, int width)
      : owner_(std::move(owner)), data_(data), size_(size), width_(width) {}
  /// From ids of any vocabulary.
  explicit TokenIds(const std::vector<int64_t>& ids);

  int64_t size() const { return size_; }
  /// Bytes an id takes.
  int width() const { return width_; }
  int64_t operator[](int64_t i) const;
  /// Widens ids begin .. begin + count - 1 into `to`.
  void copy(int64_t begin, int64_t count, int64_t* to) const;
  /// A checksum of ids and width, to tell in a resumed run whether the data is the same.
  uint64_t fingerprint() const;

 private:
  std::shared_ptr<const void> owner_;
  const void* data_ = nullptr;
  int64_t size_ = 0;
  int width_ = 1;
};

/// Encodes a file on all threads. The byte tokenizer's ids are the file's bytes, without a copy.
TokenIds tokenize(const Tokenizer& tokenizer, const DataFile& file);

/// inputs and targets int64 [B, N] on the CPU (to(batch.inputs, device) moves them); targets[b, n] is the token after inputs[b, n].
struct Batch {
  Tensor inputs, targets;
};

struct DatasetOptions {
  /// Tokens per row (N).
  int64_t context = 256;
  /// The last part of the tokens, of which training never sees any: the validation set. 0: none.
  double validation_fraction = 0.1;
  /// Names the sequence of training batches.
  uint64_t seed = 0;
};

class Dataset {
 public:
  /// An error if the training part, or a validation part that was asked for, has no room for a row of `context` tokens and its targets.
  Dataset(TokenIds ids, const DatasetOptions& options);

  int64_t context() const { return options_.context; }
  int64_t train_tokens() const { return train_tokens_; }
  int64_t validation_tokens() const { return ids_.size() - train_tokens_; }

  /// `batch_size` crops at random places of the training part, the `position`-th draw. Row b does not depend on batch_size.
  Batch train_batch(int64_t position, int64_t batch_size) const;

  /// Rows that cover the validation part from its start without overlap; up to context - 1 tokens at its end are left out.
  int64_t validation_rows() const;
  /// Rows first .. first + count - 1 of them, fewer at the end: for (int64_t row = 0; row < d.validation_rows(); row += 32) ...
  Batch validation_batch(int64_t first, int64_t count) const;

 private:
  template <class F>
  Batch crops(const char* op, int64_t rows, F begin_of) const;
  TokenIds ids_;
  DatasetOptions options_;
  int64_t train_tokens_ = 0;
};

}  // namespace weft
