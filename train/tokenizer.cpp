#include "weft/train/tokenizer.h"

#include <algorithm>
#include <charconv>

#include "weft/core/error.h"
#include "weft/core/spec.h"
#include "weft/train/files.h"
#include "weft/train/json.h"
#include "weft/train/utf8.h"

namespace weft {
namespace {

constexpr const char* file_name = "tokenizer.json";
constexpr const char* replacement = "\xEF\xBF\xBD";  // U+FFFD

class ByteBody : public TokenizerBody {
 public:
  ByteBody() {
    for (int byte = 0; byte < 256; ++byte) pieces_.emplace_back(1, static_cast<char>(byte));
  }
  std::string kind() const override { return "byte"; }
  void encode(std::string_view text, std::vector<int32_t>& ids) const override {
    const size_t before = ids.size();
    ids.resize(before + text.size());
    std::transform(text.begin(), text.end(), ids.begin() + static_cast<ptrdiff_t>(before),
                   [](char c) { return static_cast<unsigned char>(c); });
  }
  void save(const std::filesystem::path& folder) const override {
    write_file_atomically(folder / file_name, dump(Json::Object{{"kind", kind()}}, 2) + "\n");
  }
};

class CharBody : public TokenizerBody {
 public:
  // `codes` are sorted and unique.
  explicit CharBody(const std::vector<char32_t>& codes) : ids_(codes.empty() ? 0 : codes.back() + 1, -1) {
    for (char32_t code : codes) {
      ids_[code] = static_cast<int32_t>(pieces_.size());
      append_utf8(pieces_.emplace_back(), code);
    }
  }
  std::string kind() const override { return "char"; }
  void encode(std::string_view text, std::vector<int32_t>& ids) const override {
    ids.reserve(ids.size() + text.size());
    for (size_t at = 0; at < text.size();) {
      const Utf8Character c = utf8_at(text, at);
      WEFT_CHECK(c.kind == Utf8Character::Kind::complete, "tokenizer: the text is not valid UTF-8 at byte {}", at);
      const int32_t id = c.code < ids_.size() ? ids_[c.code] : -1;
      WEFT_CHECK(id >= 0, "tokenizer: the character {} at byte {} is not among the {} characters of the training text",
                 describe_character(c.code), at, pieces_.size());
      ids.push_back(id);
      at += c.bytes;
    }
  }
  void save(const std::filesystem::path& folder) const override {
    std::string characters;
    for (const std::string& piece : pieces_) characters += piece;
    write_file_atomically(folder / file_name, dump(Json::Object{{"kind", kind()}, {"characters", characters}}, 2) + "\n");
  }

 private:
  std::vector<int32_t> ids_;  // by code point; -1: unknown
};

// The distinct characters of `text`, sorted. `what` opens the messages.
std::vector<char32_t> characters_of(std::string_view text, const std::string& what) {
  WEFT_CHECK(!text.starts_with("\xFF\xFE") && !text.starts_with("\xFE\xFF"),
             "{}: the text is UTF-16; convert it with `iconv -f UTF-16 -t UTF-8`", what);
  std::vector<bool> seen(0x110000);
  for (size_t at = 0; at < text.size();) {
    const Utf8Character c = utf8_at(text, at);
    WEFT_CHECK(c.kind == Utf8Character::Kind::complete, "{}: the text is not valid UTF-8 at byte {}; the byte tokenizer takes any text",
               what, at);
    seen[c.code] = true;
    at += c.bytes;
  }
  std::vector<char32_t> codes;
  for (char32_t code = 0; code < seen.size(); ++code) {
    if (seen[code]) codes.push_back(code);
  }
  WEFT_CHECK(!codes.empty(), "{}: the text is empty", what);
  return codes;
}

const std::string& text_member(const Json& json, const char* name, const std::string& file) {
  const Json* member = json.find(name);
  WEFT_CHECK(member != nullptr && member->as_text() != nullptr, "{}: expected \"{}\" to be a text", file, name);
  return *member->as_text();
}

}  // namespace

Tokenizer::Tokenizer() : body_(std::make_shared<ByteBody>()) {}

std::vector<int64_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  body_->encode(text, ids);
  return {ids.begin(), ids.end()};
}

std::string Tokenizer::decode(std::span<const int64_t> ids) const {
  std::string text;
  for (int64_t id : ids) text += piece(id);
  return text;
}

const std::string& Tokenizer::piece(int64_t id) const {
  WEFT_CHECK(0 <= id && id < vocab_size(), "tokenizer: there is no token {}; the vocabulary has {}", id, vocab_size());
  return body_->pieces()[static_cast<size_t>(id)];
}

Tokenizer Tokenizer::load(const std::filesystem::path& folder) {
  const std::string file = (folder / file_name).string();
  const Json json = parse_json(read_file(folder / file_name), file);
  const std::string& kind = text_member(json, "kind", file);
  if (kind == "byte") return byte_tokenizer();
  if (kind == "char") {
    const std::string& text = text_member(json, "characters", file);
    const std::vector<char32_t> codes = characters_of(text, file);
    std::string sorted;
    for (char32_t code : codes) append_utf8(sorted, code);
    WEFT_CHECK(sorted == text, "{}: the characters are not sorted and unique", file);
    return Tokenizer(std::make_shared<CharBody>(codes));
  }
  WEFT_CHECK(kind == "bpe", "{}: unknown kind \"{}\"; {}", file, kind, suggest(kind, {"bpe", "byte", "char"}));

  const std::filesystem::path model_file = folder / std::filesystem::path(text_member(json, "model", file)).filename();
  std::string model = read_file(model_file);
  const uint64_t sum = checksum(model.data(), static_cast<int64_t>(model.size()));
  WEFT_CHECK(std::to_string(sum) == text_member(json, "model_checksum", file), "{}: damaged, or not the model that belongs to {}",
             model_file.string(), file);
  return Tokenizer(detail::make_bpe_body(std::move(model), model_file.string()));
}

Tokenizer byte_tokenizer() { return Tokenizer(); }

Tokenizer char_tokenizer(std::string_view text) { return Tokenizer(std::make_shared<CharBody>(characters_of(text, "char_tokenizer"))); }

Tokenizer make_tokenizer(const std::string& spec, std::string_view text) {
  Spec parsed("tokenizer", spec);
  const BpeOptions defaults;
  if (parsed.name() == "bpe") {
    const int64_t vocab_size = parsed.integer("vocab_size", defaults.vocab_size);
    parsed.check_all_used();
    return bpe_tokenizer(text, {.vocab_size = vocab_size});
  }
  if (parsed.name() != "byte" && parsed.name() != "char") parsed.fail_unknown({"bpe", "byte", "char"});
  parsed.check_all_used();
  return parsed.name() == "byte" ? byte_tokenizer() : char_tokenizer(text);
}

std::string StreamDecoder::push(int64_t id) {
  held_ += tokenizer_.piece(id);
  return take(false);
}

std::string StreamDecoder::finish() { return take(true); }

std::string StreamDecoder::take(bool at_end) {
  std::string text;
  size_t at = 0;
  while (at < held_.size()) {
    const Utf8Character c = utf8_at(held_, at);
    if (c.kind == Utf8Character::Kind::cut_off && !at_end) break;
    if (c.kind == Utf8Character::Kind::complete) {
      text.append(held_, at, c.bytes);
    } else {
      text += replacement;
    }
    at += c.bytes;
  }
  held_.erase(0, at);
  return text;
}

}  // namespace weft
