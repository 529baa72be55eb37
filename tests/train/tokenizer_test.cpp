#include "weft/train/tokenizer.h"

#include <cstring>

#include "train/temporary_folder.h"
#include "weft/train/files.h"
#include "weft/train/json.h"
#include "weft/train/utf8.h"

TEST_SUITE_BEGIN("host");

namespace weft {
namespace {

const std::string poem =
    "Whose woods these are I think I know. His house is in the village though;\n"
    "He will not see me stopping here to watch his woods fill up with snow.\n\n"
    "My little horse must think it queer to stop without a farmhouse near\n"
    "Between the woods and frozen lake the darkest evening of the year.\n";

// Text of every kind of difficulty: invalid UTF-8, control characters, what SentencePiece reserves.
std::string difficult(uint64_t seed) {
  const std::string_view parts[] = {"woods",        " ",    "  ",   "\n",     "\t",     "\r\n", "é",      "日本",   "😀", "\xff",
                                    "\xE2\x96\x81", "\xE2", "<s>",  "<0x0A>", "<unk>",  "the ", "\x7f",   "\xC3",   "I", "\xE2\x96\x85",
                                    "\u0301",       "ﬁ",    "\x01", "\u00a0", "\ufeff", "A",    "\u200b", "\u3000", "%"};
  const RandomKey key{seed, 0};
  std::string text;
  for (uint64_t i = 0; i < 1 + key.word(0) % 40; ++i) {
    const uint32_t word = key.word(i + 1);
    if (word % 29 == 0) {
      text += '\0';
    } else {
      text += parts[word / 29 % std::size(parts)];
    }
  }
  return text;
}

std::string stream(const Tokenizer& tokenizer, const std::vector<int64_t>& ids) {
  StreamDecoder decoder(tokenizer);
  std::string text;
  for (int64_t id : ids) {
    const std::string piece = decoder.push(id);
    REQUIRE(find_invalid_utf8(piece) == piece.size());  // whole characters only
    text += piece;
  }
  return text + decoder.finish();
}

TEST_CASE("tokenizer: bytes") {
  const Tokenizer tokenizer = byte_tokenizer();
  CHECK(tokenizer.kind() == "byte");
  CHECK(tokenizer.vocab_size() == 256);
  CHECK(tokenizer.encode("a\xff") == std::vector<int64_t>{97, 255});
  CHECK(tokenizer.encode("").empty());
  CHECK(tokenizer.decode({104, 105}) == "hi");
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const std::string text = difficult(seed);
    CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
  }
  CHECK_THROWS_WITH_AS(tokenizer.decode({256}), "tokenizer: there is no token 256; the vocabulary has 256", Error);
  CHECK_THROWS_WITH_AS(tokenizer.decode({-1}), "tokenizer: there is no token -1; the vocabulary has 256", Error);
}

TEST_CASE("tokenizer: characters are sorted by code point") {
  const Tokenizer tokenizer = char_tokenizer("bé😀aab\n");
  CHECK(tokenizer.kind() == "char");
  CHECK(tokenizer.vocab_size() == 5);
  CHECK(tokenizer.encode("\nabé😀") == std::vector<int64_t>{0, 1, 2, 3, 4});
  CHECK(tokenizer.decode({4, 0, 3}) == "😀\né");
  CHECK(tokenizer.piece(3) == "é");

  CHECK_THROWS_WITH_AS(tokenizer.encode("abc"),
                       "tokenizer: the character \"c\" (U+0063) at byte 2 is not among the 5 characters of the training text", Error);
  CHECK_THROWS_WITH_AS(tokenizer.encode("é\t"),
                       "tokenizer: the character U+0009 at byte 2 is not among the 5 characters of the training text", Error);
  CHECK_THROWS_WITH_AS(tokenizer.encode("ab\xff"), "tokenizer: the text is not valid UTF-8 at byte 2", Error);
  CHECK_THROWS_WITH_AS(char_tokenizer("ab\xE2\x82"),
                       "char_tokenizer: the text is not valid UTF-8 at byte 2; the byte tokenizer takes any text", Error);
  CHECK_THROWS_WITH_AS(char_tokenizer("\xff\xfe"
                                      "a"),
                       "char_tokenizer: the text is UTF-16; convert it with `iconv -f UTF-16 -t UTF-8`", Error);
  CHECK_THROWS_WITH_AS(char_tokenizer(""), "char_tokenizer: the text is empty", Error);
}

TEST_CASE("tokenizer: streams come in whole characters") {
  const Tokenizer bytes = byte_tokenizer();
  StreamDecoder decoder(bytes);
  CHECK(decoder.push('a') == "a");
  CHECK(decoder.push(0xE2) == "");
  CHECK(decoder.push(0x82) == "");
  CHECK(decoder.push(0xAC) == "€");
  CHECK(decoder.push(0xE2) == "");
  CHECK(decoder.push('b') == "\uFFFDb");
  CHECK(decoder.push(0x80) == "\uFFFD");
  CHECK(decoder.push(0xF0) == "");
  CHECK(decoder.push(0x9F) == "");
  CHECK(decoder.finish() == "\uFFFD");
  CHECK(decoder.finish() == "");
  CHECK_THROWS_AS(decoder.push(300), Error);
  CHECK(stream(bytes, bytes.encode("aé€😀\n")) == "aé€😀\n");
  for (uint64_t seed = 0; seed < 200; ++seed) stream(bytes, bytes.encode(difficult(seed)));
}

TEST_CASE("tokenizer: saved and loaded") {
  TemporaryFolder folder;
  byte_tokenizer().save(folder.path());
  CHECK(Tokenizer::load(folder.path()).kind() == "byte");

  const Tokenizer characters = char_tokenizer(poem + "\"\\\x01é");
  characters.save(folder.path());
  const Tokenizer loaded = Tokenizer::load(folder.path());
  CHECK(loaded.kind() == "char");
  CHECK(loaded.vocab_size() == characters.vocab_size());
  CHECK(loaded.encode(poem) == characters.encode(poem));
  CHECK(folder.entries() == 1);
}

TEST_CASE("tokenizer: damaged files") {
  TemporaryFolder folder;
  const auto error = [&](const std::string& json) {
    put(folder / "tokenizer.json", json);
    return error_of(folder, [&] { Tokenizer::load(folder.path()); });
  };
  CHECK(error_of(folder, [&] { Tokenizer::load(folder.path()); }) == "tokenizer.json: cannot open: No such file or directory");
  CHECK(error("{").starts_with("tokenizer.json: not valid JSON: "));
  CHECK(error("[]") == "tokenizer.json: expected \"kind\" to be a text");
  CHECK(error(R"({"kind": "word"})") == "tokenizer.json: unknown kind \"word\"; known: bpe, byte, char");
  CHECK(error(R"({"kind": "char"})") == "tokenizer.json: expected \"characters\" to be a text");
  CHECK(error(R"({"kind": "char", "characters": ""})") == "tokenizer.json: the text is empty");
  CHECK(error(R"({"kind": "char", "characters": "ba"})") == "tokenizer.json: the characters are not sorted and unique");
  CHECK(error(R"({"kind": "char", "characters": "aab"})") == "tokenizer.json: the characters are not sorted and unique");
  CHECK(error(R"({"kind": "bpe"})") == "tokenizer.json: expected \"model\" to be a text");
  CHECK(error(R"({"kind": "bpe", "model": "m", "model_checksum": "1"})") == "m: cannot open: No such file or directory");
  put(folder / "m", "model");
  CHECK(error(R"({"kind": "bpe", "model": "m", "model_checksum": "1"})") == "m: damaged, or not the model that belongs to tokenizer.json");

  char_tokenizer(poem).save(folder.path());
  const std::string good = get(folder / "tokenizer.json");
  const int loads = count_loads(2000, [&](uint64_t seed) {
    put(folder / "tokenizer.json", damaged(good, seed));
    const Tokenizer tokenizer = Tokenizer::load(folder.path());
    for (int64_t id = 0; id < tokenizer.vocab_size(); ++id) CHECK(tokenizer.encode(tokenizer.piece(id)) == std::vector<int64_t>{id});
  });
  CHECK(loads > 0);
}

TEST_CASE("tokenizer: by name") {
  CHECK(make_tokenizer("byte", "").kind() == "byte");
  CHECK(make_tokenizer("char", "ab").vocab_size() == 2);
  CHECK_THROWS_WITH_AS(make_tokenizer("chr", ""), "tokenizer: unknown name \"chr\"; did you mean \"char\"? known: bpe, byte, char", Error);
  CHECK_THROWS_WITH_AS(make_tokenizer("byte:vocab_size=3", ""), "tokenizer byte: unknown option \"vocab_size\"; it takes none", Error);
  if (bpe_available()) CHECK(make_tokenizer("bpe:vocab_size=300", poem).vocab_size() == 300);
}

TEST_CASE("tokenizer: bpe spells everything, and the same model comes from the same text") {
  if (!bpe_available()) {
    CHECK_THROWS_AS(bpe_tokenizer(poem), Error);
    return;
  }
  const Tokenizer tokenizer = bpe_tokenizer(poem, {.vocab_size = 340});
  CHECK(tokenizer.kind() == "bpe");
  CHECK(tokenizer.vocab_size() == 340);
  const std::vector<int64_t> ids = tokenizer.encode(poem);
  CHECK(tokenizer.decode(ids) == poem);
  CHECK(ids.size() < poem.size() * 2 / 3);
  CHECK(tokenizer.encode("").empty());
  CHECK(bpe_tokenizer(poem, {.vocab_size = 340}).encode(poem) == ids);
  for (uint64_t seed = 0; seed < 500; ++seed) {
    const std::string text = difficult(seed);
    CAPTURE(text);
    const std::vector<int64_t> spelled = tokenizer.encode(text);
    CHECK(tokenizer.decode(spelled) == text);
    if (find_invalid_utf8(text) == text.size()) CHECK(stream(tokenizer, spelled) == text);
  }

  // Lines are encoded by themselves: a text can be cut after any line end.
  const size_t cut = poem.find('\n') + 1;
  std::vector<int64_t> parts = tokenizer.encode(poem.substr(0, cut)), rest = tokenizer.encode(poem.substr(cut));
  parts.insert(parts.end(), rest.begin(), rest.end());
  CHECK(parts == ids);
}

TEST_CASE("tokenizer: bpe is saved with its model, and damage to it is found") {
  if (!bpe_available()) return;
  TemporaryFolder folder;
  const Tokenizer tokenizer = bpe_tokenizer(poem, {.vocab_size = 320});
  tokenizer.save(folder.path());
  CHECK(folder.entries() == 2);
  const Tokenizer loaded = Tokenizer::load(folder.path());
  CHECK(loaded.encode(poem) == tokenizer.encode(poem));
  CHECK(loaded.vocab_size() == 320);

  const std::string model = get(folder / "tokenizer.model"), json = get(folder / "tokenizer.json");
  const int loads = count_loads(500, [&](uint64_t seed) {
    put(folder / "tokenizer.model", damaged(model, seed));
    Tokenizer::load(folder.path());
  });
  CHECK(loads < 5);  // damage that changes nothing
  const std::string sum = std::to_string(checksum("no model", 8));
  put(folder / "tokenizer.model", "no model");
  put(folder / "tokenizer.json", R"({"kind": "bpe", "model": "tokenizer.model", "model_checksum": ")" + sum + "\"}");
  CHECK(error_of(folder, [&] { Tokenizer::load(folder.path()); }).starts_with("tokenizer.model: SentencePiece: "));
}

TEST_CASE("tokenizer: bpe refuses vocabularies that it cannot fill") {
  if (!bpe_available()) return;
  CHECK_THROWS_WITH_AS(bpe_tokenizer(poem, {.vocab_size = 257}),
                       "bpe_tokenizer: vocab_size must be over 257 (the bytes are tokens too), got 257", Error);
  CHECK_THROWS_WITH_AS(make_tokenizer("bpe:vocab_size=9999999999", "text"),
                       "bpe_tokenizer: vocab_size must be at most 2147483647, got 9999999999", Error);
  CHECK_THROWS_WITH_AS(bpe_tokenizer("\n\n\xff", {}), "bpe_tokenizer: there is no text to train on", Error);
  TemporaryFolder folder;
  CHECK(
      error_of(folder, [] { bpe_tokenizer(poem, {.vocab_size = 260}); }).starts_with("bpe_tokenizer: SentencePiece: Vocabulary size is "));
  CHECK(error_of(folder, [] { bpe_tokenizer(poem, {.vocab_size = 9000}); }).find("Please set it to a value <= ") != std::string::npos);
}

TEST_CASE("tokenizer: bpe trains on long lines and on a part of a long text") {
  if (!bpe_available()) return;
  std::string text;
  for (int i = 0; i < 300; ++i) text += "some words " + std::to_string(i * i) + (i % 2 == 0 ? " " : "_");
  const std::string line = text + std::string(9000, 'x') + text;
  const Tokenizer tokenizer = bpe_tokenizer(line, {.vocab_size = 300});
  CHECK(tokenizer.decode(tokenizer.encode(line)) == line);
  const Tokenizer from_parts = bpe_tokenizer(line, {.vocab_size = 290, .max_training_bytes = 4096});
  CHECK(from_parts.decode(from_parts.encode(line)) == line);
}

}  // namespace
}  // namespace weft
