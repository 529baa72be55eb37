#include "weft/train/data.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>

#include "train/temporary_folder.h"

TEST_SUITE_BEGIN("host");

namespace weft {
namespace {

std::string bytes_of(std::string_view hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  return bytes;
}

// gzip -9 of `lines()`.
const std::string packed_lines = bytes_of(
    "1f8b08000000000002ff8593cb0d42310c04ef54e11262c7ce876e22f10e88280f7141748f2880c979b5597bbc99f77548baca9853dee7eb2163dd649df29ce373"
    "993f514974123b3e5b48b52035a3d731b7e0c80db7d5c4a48cddee0c84797506c6c42cd8dd303b9bf339b8234ccd9ddd0db3c370f2a8b877616a85dd95b32b4fde"
    "78efced47ad934954fa6892faeca85d14ddfd4b8ae9a376df7cd6789bf7fed0ba01f2bafd2040000");
std::string lines() {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "line " + std::to_string(i * i) + ": all work and no play\n";
  return text;
}
// gzip -9 of a megabyte of zeros.
const std::string packed_zeros =
    bytes_of("1f8b08000000000002ffedc13101000000c2a0f54f6d085fa0") + std::string(1016, '\0') + bytes_of("3e031cea38a700001000");

TokenIds counting(int64_t n) {
  std::vector<int64_t> ids(static_cast<size_t>(n));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(i);
  return TokenIds(ids);
}

TEST_CASE("data: files are read as they are") {
  TemporaryFolder folder;
  put(folder / "a.txt", "some text\xff");
  const DataFile file(folder / "a.txt");
  CHECK(file.text() == "some text\xff");
  std::filesystem::resize_file(folder / "a.txt", 0);  // the copy in memory stays
  CHECK(file.text() == "some text\xff");
  put(folder / "empty", "");
  const auto error = [&](const std::string& name) { return error_of(folder, [&] { DataFile(folder / name); }); };
  CHECK(error("none") == "none: cannot open: No such file or directory");
  CHECK(error("empty") == "empty: the file is empty");
  CHECK(error_of(folder, [&] { DataFile(folder.path()); }).ends_with(": expected a file, found a folder"));
}

TEST_CASE("data: gzip files are unpacked") {
  TemporaryFolder folder;
  put(folder / "a.gz", packed_lines);
  if (!gzip_available()) {
    CHECK(error_of(folder, [&] { DataFile(folder / "a.gz"); }) ==
          "a.gz: this build cannot read .gz files; unpack the file, or install zlib1g-dev and build again");
    return;
  }
  CHECK(DataFile(folder / "a.gz").text() == lines());
  put(folder / "packed.txt", packed_lines);  // told by how it begins
  CHECK(DataFile(folder / "packed.txt").text() == lines());
  CHECK(gunzip(packed_zeros, "x") == std::string(1 << 20, '\0'));  // output goes on after the input has ended
  CHECK(gunzip(packed_lines + packed_zeros + packed_lines, "x") == lines() + std::string(1 << 20, '\0') + lines());
  CHECK(gunzip(packed_lines + std::string(100, '\0'), "x") == lines());

  const auto error = [&](const std::string& content) {
    put(folder / "a.gz", content);
    return error_of(folder, [&] { DataFile(folder / "a.gz"); });
  };
  for (size_t n = 1; n < packed_lines.size(); ++n) CHECK(error(packed_lines.substr(0, n)) == "a.gz: the gzip data is incomplete");
  CHECK(error("plain text") == "a.gz: not valid gzip data at byte 2: incorrect header check");
  CHECK(error(packed_lines + "more").starts_with("a.gz: not valid gzip data at byte 17"));
  std::string wrong_sum = packed_lines;
  wrong_sum[wrong_sum.size() - 8] ^= 1;
  CHECK(error(wrong_sum).ends_with("incorrect data check"));
  CHECK(error(bytes_of("1f8b080000000000020303000000000000000000")) == "a.gz: the file is empty");
}

TEST_CASE("data: thousands of damaged gzip files are valid or an error") {
  if (!gzip_available()) return;
  int64_t bytes = 0;
  const int loads = count_loads(3000, [&](uint64_t seed) {
    bytes += static_cast<int64_t>(gunzip(damaged(seed % 8 == 0 ? packed_zeros : packed_lines + packed_lines, seed), "x").size());
  });
  CHECK(loads > 0);  // the header has bytes that mean little
  CHECK(loads < 1500);
  CHECK(bytes > 0);
}

TEST_CASE("data: token ids take as few bytes as they can") {
  CHECK(TokenIds({0, 255}).width() == 1);
  CHECK(TokenIds({0, 256}).width() == 2);
  CHECK(TokenIds({65535}).width() == 2);
  CHECK(TokenIds({65536}).width() == 4);
  for (int64_t largest : {255, 65535, 2147483647}) {
    const std::vector<int64_t> ids = {0, largest, 7, largest - 1};
    const TokenIds compact(ids);
    CHECK(compact.size() == 4);
    std::vector<int64_t> copy(3);
    compact.copy(1, 3, copy.data());
    CHECK(copy == std::vector<int64_t>{largest, 7, largest - 1});
    CHECK(compact[1] == largest);
  }
  CHECK(TokenIds({1, 2}).fingerprint() == TokenIds({1, 2}).fingerprint());
  CHECK(TokenIds({1, 2}).fingerprint() != TokenIds({2, 1}).fingerprint());
  CHECK_THROWS_WITH_AS(TokenIds({-1}), "TokenIds: -1 is no token id", Error);
  CHECK_THROWS_WITH_AS(TokenIds({1, 2})[2], "TokenIds: [2, 3) is out of range for 2 tokens", Error);
}

TEST_CASE("data: files become ids, in parts that no tokenizer notices") {
  TemporaryFolder folder;
  std::string text;
  for (int i = 0; text.size() < 5'000'000; ++i) text += "zeile nümmer " + std::to_string(i) + " \n";
  put(folder / "a.txt", text);
  const DataFile file(folder / "a.txt");

  const TokenIds bytes = tokenize(byte_tokenizer(), file);
  CHECK(bytes.size() == static_cast<int64_t>(text.size()));
  CHECK(bytes.width() == 1);
  CHECK(bytes[7] == 0xC3);

  const Tokenizer characters = char_tokenizer(text);
  const TokenIds ids = tokenize(characters, file);
  std::vector<int64_t> all(static_cast<size_t>(ids.size()));
  ids.copy(0, ids.size(), all.data());
  CHECK((all == characters.encode(text)));
  const int threads = num_threads();
  set_num_threads(1);
  CHECK(tokenize(characters, file).fingerprint() == ids.fingerprint());
  set_num_threads(threads);

  put(folder / "b.txt", text + "?");
  CHECK(error_of(folder, [&] { tokenize(characters, DataFile(folder / "b.txt")); }) ==
        format("tokenizer: the character \"?\" (U+003F) at byte {} is not among the {} characters of the training text", text.size(),
               characters.vocab_size()));
}

TEST_CASE("data: a row's targets are its inputs, one later") {
  const Dataset data(counting(1000), {.context = 33, .validation_fraction = 0.25, .seed = 5});
  CHECK(data.train_tokens() == 750);
  CHECK(data.validation_tokens() == 250);
  for (int64_t position = 0; position < 50; ++position) {
    const Batch batch = data.train_batch(position, 7);
    CHECK(batch.inputs.shape() == Shape{7, 33});
    CHECK(batch.targets.shape() == Shape{7, 33});
    CHECK(batch.inputs.dtype() == DType::int64);
    const int64_t *inputs = batch.inputs.data<int64_t>(), *targets = batch.targets.data<int64_t>();
    for (int64_t i = 0; i < 7 * 33; ++i) {
      CHECK(targets[i] == inputs[i] + 1);
      if (i % 33 > 0) CHECK(inputs[i] == inputs[i - 1] + 1);
      CHECK(targets[i] < 750);  // never a token of the validation part
    }
  }
}

TEST_CASE("data: a batch is a function of seed and position, its rows of nothing else") {
  const TokenIds ids = counting(10'000);
  const auto batch = [&](uint64_t seed, int64_t position, int64_t rows) {
    return Dataset(ids, {.context = 5, .seed = seed}).train_batch(position, rows).inputs.to_vector<int64_t>();
  };
  CHECK(batch(1, 3, 4) == batch(1, 3, 4));
  CHECK(batch(1, 3, 4) != batch(1, 4, 4));
  CHECK(batch(1, 3, 4) != batch(2, 3, 4));
  std::vector<int64_t> longer = batch(1, 3, 9);
  longer.resize(4 * 5);
  CHECK(batch(1, 3, 4) == longer);
}

TEST_CASE("data: every place is drawn, the first and the last too, about equally often") {
  const Dataset data(counting(40), {.context = 3, .validation_fraction = 0.5});
  std::vector<int> seen(20);
  for (int64_t position = 0; position < 400; ++position) {
    for (int64_t row : {0, 1, 2, 3, 4}) ++seen[static_cast<size_t>(data.train_batch(position, 5).inputs.data<int64_t>()[row * 3])];
  }
  for (size_t begin = 0; begin < 17; ++begin) {
    CHECK(seen[begin] > 70);  // 2000 draws of 17 places: 118 each
    CHECK(seen[begin] < 170);
  }
  for (size_t begin = 17; begin < 20; ++begin) CHECK(seen[begin] == 0);
}

TEST_CASE("data: validation rows cover the last part in order, without overlap") {
  const Dataset data(counting(1000), {.context = 33, .validation_fraction = 0.25});
  CHECK(data.validation_rows() == 7);  // 249 targets
  std::vector<int64_t> covered;
  int64_t rows = 0;
  for (int64_t row = 0; row < data.validation_rows(); row += 4) {
    const Batch batch = data.validation_batch(row, 4);
    rows += batch.inputs.size(0);
    const std::vector<int64_t> inputs = batch.inputs.to_vector<int64_t>(), targets = batch.targets.to_vector<int64_t>();
    for (size_t i = 0; i < inputs.size(); ++i) CHECK(targets[i] == inputs[i] + 1);
    covered.insert(covered.end(), inputs.begin(), inputs.end());
  }
  CHECK(rows == 7);
  CHECK(covered.size() == 7 * 33);
  for (size_t i = 0; i < covered.size(); ++i) CHECK(covered[i] == 750 + static_cast<int64_t>(i));
  CHECK_THROWS_WITH_AS(data.validation_batch(7, 1), "validation_batch: 1 rows from row 7 on are out of range for 7", Error);
  CHECK(Dataset(counting(100), {.context = 3, .validation_fraction = 0}).validation_rows() == 0);
}

TEST_CASE("data: texts that are too short, and settings that make no sense") {
  const auto make = [](int64_t n, const DatasetOptions& options) { Dataset(counting(n), options); };
  CHECK_THROWS_WITH_AS(
      make(100, {.context = 90, .validation_fraction = 0.1}),
      "data: the text is too short: 90 of its 100 tokens are for training, a context of 90 needs one more than that; use more "
      "text or a shorter context",
      Error);
  CHECK_THROWS_WITH_AS(
      make(100, {.context = 10, .validation_fraction = 0.1}),
      "data: the text is too short: 10 of its 100 tokens are for validation, a context of 10 needs one more than that; use more "
      "text, a shorter context or a larger validation fraction (0: none)",
      Error);
  CHECK_THROWS_WITH_AS(make(100, {.context = 0}), "data: the context must be at least 1, got 0", Error);
  CHECK_THROWS_WITH_AS(make(100, {.context = 1, .validation_fraction = 1}),
                       "data: the validation fraction must be at least 0 and below 1, got 1", Error);
  CHECK_THROWS_WITH_AS(make(0, {.context = 1}), "data: there are no tokens", Error);
  const Dataset data(counting(100), {.context = 5});
  CHECK_THROWS_WITH_AS(data.train_batch(-1, 2), "train_batch: position -1, batch size 2: expected at least 0 and 1", Error);
  CHECK_THROWS_WITH_AS(data.train_batch(0, std::numeric_limits<int64_t>::max()),
                       "train_batch: no memory for a batch of 9223372036854775807 rows with a context of 5 (empty: shape "
                       "[9223372036854775807, 5] is larger than any memory); take less of either",
                       Error);
  CHECK_THROWS_WITH_AS(make(100, {.context = std::numeric_limits<int64_t>::max()}),
                       doctest::Contains("a context of 9223372036854775807 needs one more than that"), Error);
  CHECK_THROWS_WITH_AS(data.train_batch(0, 0), "train_batch: position 0, batch size 0: expected at least 0 and 1", Error);
}

TEST_CASE("data: the smallest text") {
  const Dataset data(counting(3), {.context = 2, .validation_fraction = 0});
  const Batch batch = data.train_batch(17, 2);
  CHECK(batch.inputs.to_vector<int64_t>() == std::vector<int64_t>{0, 1, 0, 1});
  CHECK(batch.targets.to_vector<int64_t>() == std::vector<int64_t>{1, 2, 1, 2});
}

}  // namespace
}  // namespace weft
