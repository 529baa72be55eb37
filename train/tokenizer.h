// Tokenizers: text to ids and back, without loss: decode(encode(text)) == text, byte for byte.
//
//   byte   every byte is a token (256); any file at all
//   char   every character (Unicode code point) that occurs in the training text, in sorted order; valid UTF-8 only
//   bpe    byte-pair encoding by SentencePiece, trained on the text. What its pieces cannot spell (rare characters, line ends, invalid
//          UTF-8) is spelled in bytes, each a token of its own
//
// R. Sennrich, B. Haddow, A. Birch: Neural machine translation of rare words with subword units (2015).
// T. Kudo, J. Richardson: SentencePiece (2018).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weft {

/// Base of the type-erased value: maps text to ids, and knows the bytes of every id.
class TokenizerBody {
 public:
  virtual ~TokenizerBody() = default;
  virtual std::string kind() const = 0;
  /// Appends the ids of `text`.
  virtual void encode(std::string_view text, std::vector<int32_t>& ids) const = 0;
  /// Writes tokenizer.json (and the files that it names) into `folder`.
  virtual void save(const std::filesystem::path& folder) const = 0;
  /// The bytes of every id; fixed after construction.
  const std::vector<std::string>& pieces() const { return pieces_; }

 protected:
  std::vector<std::string> pieces_;
};

/// A shared handle; copies are cheap, all functions are const and safe to call from several threads.
class Tokenizer {
 public:
  /// The byte tokenizer.
  Tokenizer();
  explicit Tokenizer(std::shared_ptr<const TokenizerBody> body) : body_(std::move(body)) {}

  /// "byte", "char" or "bpe".
  std::string kind() const { return body_->kind(); }
  int64_t vocab_size() const { return static_cast<int64_t>(body_->pieces().size()); }

  /// An error for a character that a char tokenizer does not know: names it and its place.
  std::vector<int64_t> encode(std::string_view text) const;
  void encode(std::string_view text, std::vector<int32_t>& ids) const { body_->encode(text, ids); }
  /// The bytes of the ids. What a model generates may break off in the middle of a character: StreamDecoder handles that.
  std::string decode(std::span<const int64_t> ids) const;
  std::string decode(std::initializer_list<int64_t> ids) const { return decode(std::span(ids.begin(), ids.size())); }
  /// The bytes of one token; an error if there is no such id.
  const std::string& piece(int64_t id) const;

  /// Writes tokenizer.json, for bpe also tokenizer.model, into a run folder.
  void save(const std::filesystem::path& folder) const { body_->save(folder); }
  /// Reads what `save` wrote; damaged files are errors.
  static Tokenizer load(const std::filesystem::path& folder);

 private:
  std::shared_ptr<const TokenizerBody> body_;
};

Tokenizer byte_tokenizer();

/// The characters that occur in `text`. An error if it is empty or not valid UTF-8.
Tokenizer char_tokenizer(std::string_view text);

struct BpeOptions {
  /// Pieces in all: 256 bytes, one for unknown, the characters of the text (but the rarest 0.05 %), and the merges.
  int64_t vocab_size = 1000;
  /// A longer text is represented by evenly spaced parts of this many bytes together.
  int64_t max_training_bytes = int64_t{16} << 20;
};

/// Trains on `text`. Errors: a build without SentencePiece; a vocabulary that is too small for the characters of the text or larger than
/// the text has pairs for.
Tokenizer bpe_tokenizer(std::string_view text, const BpeOptions& options = {});
/// Does this build have SentencePiece?
bool bpe_available();

/// "byte", "char" or "bpe:vocab_size=2000", from a command line; `text` is what char and bpe learn from.
Tokenizer make_tokenizer(const std::string& spec, std::string_view text);

/// Turns tokens into text as they come, always in whole characters: bytes of a character that is not complete yet are held back, bytes
/// that can be no character become U+FFFD.
class StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}
  /// The text that this token completes.
  std::string push(int64_t id);
  /// At the end: U+FFFD for a character that was never completed, otherwise nothing.
  std::string finish();

 private:
  std::string take(bool at_end);
  Tokenizer tokenizer_;
  std::string held_;
};

namespace detail {
/// The tokenizer of a SentencePiece model; `where` opens the messages.
std::shared_ptr<const TokenizerBody> make_bpe_body(std::string model, const std::string& where);
}  // namespace detail

}  // namespace weft
