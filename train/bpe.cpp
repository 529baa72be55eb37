// The bpe tokenizer. The only file that knows SentencePiece.
//
// SentencePiece itself is not lossless: spaces become U+2581, line ends and zero bytes are not for it, invalid UTF-8 is replaced. So it
// only ever sees stretches of text without those; they are spelled in byte tokens, as its own byte fallback spells rare characters.
#include "weft/core/error.h"
#include "weft/core/spec.h"
#include "weft/train/tokenizer.h"

#if WEFT_WITH_SENTENCEPIECE

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <array>
#include <charconv>
#include <cstdint>
#include <limits>
#include <unordered_map>

#include "weft/train/files.h"
#include "weft/train/json.h"
#include "weft/train/utf8.h"

namespace weft {
namespace {

constexpr std::string_view space_mark = "\xE2\x96\x81";    // U+2581, what SentencePiece writes for a space
constexpr std::string_view unknown_mark = "\xE2\x96\x85";  // U+2585, reserved by its trainer
constexpr const char* model_name = "tokenizer.model";
constexpr size_t max_sentence = 4000;  // bytes; its trainer skips longer ones

// Is the character at text[at] one that SentencePiece must not see?
bool is_special(std::string_view text, size_t at, const Utf8Character& c) {
  if (c.kind != Utf8Character::Kind::complete || c.code == '\n' || c.code == 0) return true;
  const std::string_view character = text.substr(at, c.bytes);
  return character == space_mark || character == unknown_mark;
}

// The length of the stretch that starts at text[at] and has no special character; at most `limit` and a character.
size_t plain_length(std::string_view text, size_t at, size_t limit) {
  size_t end = at;
  while (end < text.size() && end - at < limit) {
    const Utf8Character c = utf8_at(text, end);
    if (is_special(text, end, c)) break;
    end += c.bytes;
  }
  return end - at;
}

void check(const sentencepiece::util::Status& status, const std::string& what) {
  if (status.ok()) return;
  std::string message = status.ToString();  // "Internal: ./src/trainer_interface.cc(580) [condition] What is wrong."
  const size_t condition = message.find("] ");
  if (condition != std::string::npos) message.erase(0, condition + 2);
  fail("{}: SentencePiece: {}", what, message);
}

class BpeBody : public TokenizerBody {
 public:
  BpeBody(std::string model, const std::string& where) : model_(std::move(model)) {
    check(processor_.LoadFromSerializedProto(model_), where);
    const int size = processor_.GetPieceSize();
    for (int id = 0; id < size; ++id) pieces_.push_back(bytes_of(id));
    for (int byte = 0; byte < 256; ++byte) {
      const int id = processor_.PieceToId(byte_piece(byte));
      WEFT_CHECK(processor_.IsByte(id), "{}: the model has no token for the byte {}", where, byte);
      byte_ids_[static_cast<size_t>(byte)] = id;
    }
  }

  std::string kind() const override { return "bpe"; }

  void encode(std::string_view text, std::vector<int32_t>& ids) const override {
    std::vector<int> found;
    for (size_t at = 0; at < text.size();) {
      const size_t plain = plain_length(text, at, text.size());
      if (plain > 0) {
        check(processor_.Encode(text.substr(at, plain), &found), "tokenizer");
        ids.insert(ids.end(), found.begin(), found.end());
        at += plain;
      } else {
        for (size_t bytes = utf8_at(text, at).bytes; bytes > 0; --bytes, ++at) {
          ids.push_back(byte_ids_[static_cast<unsigned char>(text[at])]);
        }
      }
    }
  }

  void save(const std::filesystem::path& folder) const override {
    write_file_atomically(folder / model_name, model_);
    const uint64_t sum = checksum(model_.data(), static_cast<int64_t>(model_.size()));
    const Json::Object json = {
        {"kind", kind()}, {"vocab_size", pieces_.size()}, {"model", model_name}, {"model_checksum", std::to_string(sum)}};
    write_file_atomically(folder / "tokenizer.json", dump(json, 2) + "\n");
  }

 private:
  static std::string byte_piece(int byte) {
    const char* digits = "0123456789ABCDEF";
    return format("<0x{}{}>", std::string(1, digits[byte / 16]), std::string(1, digits[byte % 16]));
  }

  std::string bytes_of(int id) const {
    if (processor_.IsControl(id)) return "";
    if (processor_.IsUnknown(id)) return "\xEF\xBF\xBD";
    const std::string& piece = processor_.IdToPiece(id);
    if (processor_.IsByte(id)) {
      int byte = 0;
      std::from_chars(piece.data() + 3, piece.data() + piece.size(), byte, 16);
      return std::string(1, static_cast<char>(byte));
    }
    std::string bytes;
    for (size_t at = 0; at < piece.size();) {
      const bool space = piece.compare(at, space_mark.size(), space_mark) == 0;
      bytes += space ? ' ' : piece[at];
      at += space ? space_mark.size() : 1;
    }
    return bytes;
  }

  std::string model_;
  sentencepiece::SentencePieceProcessor processor_;
  std::array<int32_t, 256> byte_ids_{};
};

// Feeds the trainer: stretches without special characters, cut before a space where they are too long.
class Sentences : public sentencepiece::SentenceIterator {
 public:
  Sentences(std::string_view text, int64_t max_bytes) {
    constexpr size_t parts = 64;
    const auto limit = static_cast<size_t>(max_bytes);
    if (text.size() <= limit) {
      parts_.push_back(text);
    } else {
      for (size_t i = 0; i < parts; ++i) parts_.push_back(text.substr(text.size() / parts * i, limit / parts));
    }
    Next();
  }
  bool done() const override { return done_; }
  const std::string& value() const override { return sentence_; }
  sentencepiece::util::Status status() const override { return {}; }

  void Next() override {
    while (part_ < parts_.size()) {
      const std::string_view text = parts_[part_];
      if (at_ >= text.size()) {
        ++part_;
        at_ = 0;
        continue;
      }
      size_t length = plain_length(text, at_, max_sentence);
      if (length >= max_sentence) {
        const size_t space = text.substr(at_, length).rfind(' ');
        if (space != std::string_view::npos && space > 0) length = space;
      }
      sentence_ = text.substr(at_, length);
      at_ += length > 0 ? length : utf8_at(text, at_).bytes;
      if (length > 0) return;
    }
    done_ = true;
  }

 private:
  std::vector<std::string_view> parts_;
  size_t part_ = 0, at_ = 0;
  bool done_ = false;
  std::string sentence_;
};

}  // namespace

std::shared_ptr<const TokenizerBody> detail::make_bpe_body(std::string model, const std::string& where) {
  return std::make_shared<BpeBody>(std::move(model), where);
}

Tokenizer bpe_tokenizer(std::string_view text, const BpeOptions& options) {
  constexpr int64_t fixed_pieces = 257;  // bytes and "unknown"
  WEFT_CHECK(options.vocab_size > fixed_pieces, "bpe_tokenizer: vocab_size must be over {} (the bytes are tokens too), got {}",
             fixed_pieces, options.vocab_size);
  WEFT_CHECK(options.vocab_size <= std::numeric_limits<int32_t>::max(), "bpe_tokenizer: vocab_size must be at most {}, got {}",
             std::numeric_limits<int32_t>::max(), options.vocab_size);
  Sentences sentences(text, options.max_training_bytes);
  WEFT_CHECK(!sentences.done(), "bpe_tokenizer: there is no text to train on");
  const std::unordered_map<std::string, std::string> settings = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(options.vocab_size)},
      {"character_coverage", "0.9995"},
      {"byte_fallback", "true"},
      {"normalization_rule_name", "identity"},
      {"add_dummy_prefix", "false"},
      {"remove_extra_whitespaces", "false"},
      {"allow_whitespace_only_pieces", "true"},
      {"bos_id", "-1"},
      {"eos_id", "-1"},
      {"pad_id", "-1"},
      {"max_sentence_length", std::to_string(2 * max_sentence)},
      {"minloglevel", "2"},
  };
  std::string model;
  check(sentencepiece::SentencePieceTrainer::Train(settings, &sentences, &model), "bpe_tokenizer");
  return Tokenizer(detail::make_bpe_body(std::move(model), "bpe_tokenizer"));
}

bool bpe_available() { return true; }

}  // namespace weft

#else

namespace weft {
namespace {
constexpr const char* unavailable =
    "bpe tokenizer: this build has no SentencePiece; install libsentencepiece-dev and build again, or use the tokenizer char or byte";
}

std::shared_ptr<const TokenizerBody> detail::make_bpe_body(std::string, const std::string&) { fail(unavailable); }
Tokenizer bpe_tokenizer(std::string_view, const BpeOptions&) { fail(unavailable); }
bool bpe_available() { return false; }

}  // namespace weft

#endif
