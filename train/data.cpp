#include "weft/train/data.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "weft/core/cpu/parallel.h"
#include "weft/core/random.h"
#include "weft/train/files.h"

#if WEFT_WITH_ZLIB
#include <zlib.h>
#endif

namespace weft {
namespace {

constexpr int64_t chunk_bytes = 1 << 20;           // of text, encoded by one thread at a time
constexpr int64_t largest_copied = 256 << 20;      // bytes of a file
constexpr uint64_t data_stream = 0x64617461'0001;  // keeps the crops apart from other streams of the same seed

// Calls f with the C++ type of ids of `width` bytes.
template <class F>
decltype(auto) dispatch_width(int width, F&& f) {
  switch (width) {
    case 1:
      return f.template operator()<uint8_t>();
    case 2:
      return f.template operator()<uint16_t>();
    default:
      return f.template operator()<int32_t>();
  }
}

int width_of(int64_t vocab_size) { return vocab_size <= 256 ? 1 : vocab_size <= 65536 ? 2 : 4; }

// Cuts the text into pieces of about chunk_bytes that end after a line end, where every tokenizer starts anew. A char tokenizer may be cut
// after any character; a line without an end in sight is one piece.
std::vector<std::string_view> chunks_of(std::string_view text) {
  std::vector<std::string_view> chunks;
  while (!text.empty()) {
    size_t end = std::min<size_t>(chunk_bytes, text.size());
    if (end < text.size()) {
      const size_t line = text.find('\n', end - 1);
      end = line == std::string_view::npos ? text.size() : line + 1;
    }
    chunks.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return chunks;
}

void append(std::vector<std::byte>& bytes, const std::vector<int32_t>& ids, int width) {
  const size_t before = bytes.size();
  bytes.resize(before + ids.size() * static_cast<size_t>(width));
  dispatch_width(width, [&]<class T>() {
    std::byte* to = bytes.data() + before;
    for (int32_t id : ids) {
      const T narrow = static_cast<T>(id);
      std::memcpy(to, &narrow, sizeof(T));
      to += sizeof(T);
    }
  });
}

TokenIds own(std::vector<std::byte> bytes, int width) {
  const auto owner = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  return TokenIds(owner, owner->data(), static_cast<int64_t>(owner->size()) / width, width);
}

}  // namespace

DataFile::DataFile(const std::filesystem::path& path) {
  auto mapped = std::make_shared<MappedFile>(path);
  WEFT_CHECK(mapped->size() > 0, "{}: the file is empty", path.string());
  if (path.extension() == ".gz" || mapped->text().starts_with("\x1f\x8b\x08")) {
    const auto unpacked = std::make_shared<const std::string>(gunzip(mapped->text(), path.string()));
    WEFT_CHECK(!unpacked->empty(), "{}: the file is empty", path.string());
    text_ = *unpacked;
    owner_ = unpacked;
  } else if (mapped->size() <= largest_copied) {  // what happens to the file later does not matter then
    const auto copied = std::make_shared<const std::string>(mapped->text());
    text_ = *copied;
    owner_ = copied;
  } else {
    text_ = mapped->text();
    owner_ = std::move(mapped);
  }
}

#if WEFT_WITH_ZLIB

bool gzip_available() { return true; }

std::string gunzip(std::string_view packed, const std::string& where) {
  struct Stream : z_stream {
    Stream() : z_stream{} { WEFT_CHECK(inflateInit2(this, 15 + 16) == Z_OK, "gunzip: zlib cannot start"); }  // 16: gzip headers
    ~Stream() { inflateEnd(this); }
  } stream;
  const auto* input = reinterpret_cast<const Bytef*>(packed.data());
  size_t left = packed.size();
  std::string text;
  std::vector<char> buffer(256 * 1024);
  bool inside = false;  // a member
  int64_t members = 0;
  while (true) {
    if (!inside) {
      while (members > 0 && left > 0 && *input == 0) {  // padding after a member
        ++input;
        --left;
      }
      if (members > 0 && left == 0) return text;
      inflateReset(&stream);
      inside = true;
      ++members;
    }
    const auto step = static_cast<uInt>(std::min<size_t>(left, 1U << 30));
    stream.next_in = const_cast<Bytef*>(input);  // zlib does not write to its input
    stream.avail_in = step;
    stream.next_out = reinterpret_cast<Bytef*>(buffer.data());
    stream.avail_out = static_cast<uInt>(buffer.size());
    const int status = inflate(&stream, Z_NO_FLUSH);
    input += step - stream.avail_in;
    left -= step - stream.avail_in;
    text.append(buffer.data(), buffer.size() - stream.avail_out);
    WEFT_CHECK(status == Z_OK || status == Z_STREAM_END || status == Z_BUF_ERROR, "{}: not valid gzip data at byte {}: {}", where,
               packed.size() - left, stream.msg != nullptr ? stream.msg : "damaged");
    if (status == Z_STREAM_END) inside = false;
    const bool more = left > 0 || stream.avail_out == 0;
    WEFT_CHECK(!inside || (more && status == Z_OK), "{}: the gzip data is incomplete", where);
  }
}

#else

bool gzip_available() { return false; }

std::string gunzip(std::string_view, const std::string& where) {
  fail("{}: this build cannot read .gz files; unpack the file, or install zlib1g-dev and build again", where);
}

#endif

TokenIds::TokenIds(const std::vector<int64_t>& ids) {
  int64_t largest = 0;
  for (int64_t id : ids) {
    WEFT_CHECK(0 <= id && id <= std::numeric_limits<int32_t>::max(), "TokenIds: {} is no token id", id);
    largest = std::max(largest, id);
  }
  const int width = width_of(largest + 1);
  std::vector<std::byte> bytes;
  append(bytes, {ids.begin(), ids.end()}, width);
  *this = own(std::move(bytes), width);
}

int64_t TokenIds::operator[](int64_t i) const {
  int64_t id = 0;
  copy(i, 1, &id);
  return id;
}

void TokenIds::copy(int64_t begin, int64_t count, int64_t* to) const {
  WEFT_CHECK(0 <= begin && 0 <= count && begin <= size_ - count, "TokenIds: [{}, {}) is out of range for {} tokens", begin, begin + count,
             size_);
  dispatch_width(width_, [&]<class T>() { std::copy_n(static_cast<const T*>(data_) + begin, count, to); });
}

uint64_t TokenIds::fingerprint() const { return checksum(data_, size_ * width_, static_cast<uint64_t>(width_)); }

TokenIds tokenize(const Tokenizer& tokenizer, const DataFile& file) {
  const std::string_view text = file.text();
  if (tokenizer.kind() == "byte") return TokenIds(file.owner(), text.data(), static_cast<int64_t>(text.size()), 1);
  const int width = width_of(tokenizer.vocab_size());
  const std::vector<std::string_view> chunks = chunks_of(text);
  const auto together = static_cast<size_t>(num_threads()) * 4;
  std::vector<std::byte> bytes;
  for (size_t first = 0; first < chunks.size(); first += together) {
    std::vector<std::vector<int32_t>> ids(std::min(together, chunks.size() - first));
    try {
      cpu::parallel_for(static_cast<int64_t>(ids.size()), 1, [&](int64_t begin, int64_t end) {
        for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) tokenizer.encode(chunks[first + i], ids[i]);
      });
    } catch (const Error&) {
      tokenizer.encode(text);  // the same error, with its place in the whole text
      throw;
    }
    for (const std::vector<int32_t>& part : ids) append(bytes, part, width);
  }
  return own(std::move(bytes), width);
}

Dataset::Dataset(TokenIds ids, const DatasetOptions& options) : ids_(std::move(ids)), options_(options) {
  const double fraction = options.validation_fraction;
  WEFT_CHECK(options.context >= 1, "data: the context must be at least 1, got {}", options.context);
  WEFT_CHECK(fraction >= 0 && fraction < 1, "data: the validation fraction must be at least 0 and below 1, got {}", fraction);
  WEFT_CHECK(ids_.size() > 0, "data: there are no tokens");
  train_tokens_ = fraction == 0 ? ids_.size() : static_cast<int64_t>(static_cast<double>(ids_.size()) * (1 - fraction));
  WEFT_CHECK(
      train_tokens_ > options.context,
      "data: the text is too short: {} of its {} tokens are for training, a context of {} needs one more than that; use more text or a "
      "shorter context",
      train_tokens_, ids_.size(), options.context);
  WEFT_CHECK(fraction == 0 || validation_tokens() > options.context,
             "data: the text is too short: {} of its {} tokens are for validation, a context of {} needs one more than that; use more "
             "text, a shorter context or a larger validation fraction (0: none)",
             validation_tokens(), ids_.size(), options.context);
}

// Rows of the data, the one for row r beginning at begin_of(r).
template <class F>
Batch Dataset::crops(const char* op, int64_t rows, F begin_of) const {
  const int64_t n = options_.context;
  Batch batch;
  try {
    batch.inputs = empty({rows, n}, {.dtype = DType::int64, .device = Device::cpu()});
    batch.targets = empty({rows, n}, {.dtype = DType::int64, .device = Device::cpu()});
  } catch (const Error& error) {
    fail("{}: no memory for a batch of {} rows with a context of {} ({}); take less of either", op, rows, n, error.what());
  }
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t begin = begin_of(row);
    ids_.copy(begin, n, batch.inputs.data<int64_t>() + row * n);
    ids_.copy(begin + 1, n, batch.targets.data<int64_t>() + row * n);
  }
  return batch;
}

Batch Dataset::train_batch(int64_t position, int64_t batch_size) const {
  WEFT_CHECK(position >= 0 && batch_size >= 1, "train_batch: position {}, batch size {}: expected at least 0 and 1", position, batch_size);
  const RandomKey key{options_.seed ^ data_stream, static_cast<uint64_t>(position)};
  const auto places = static_cast<unsigned __int128>(train_tokens_ - options_.context);
  return crops("train_batch", batch_size, [&](int64_t row) {
    const auto word = 2 * static_cast<uint64_t>(row);
    const uint64_t uniform = (uint64_t{key.word(word)} << 32) | key.word(word + 1);
    return static_cast<int64_t>(uniform * places >> 64);
  });
}

int64_t Dataset::validation_rows() const { return std::max<int64_t>(validation_tokens() - 1, 0) / options_.context; }

Batch Dataset::validation_batch(int64_t first, int64_t count) const {
  WEFT_CHECK(0 <= first && first < validation_rows() && count >= 1, "validation_batch: {} rows from row {} on are out of range for {}",
             count, first, validation_rows());
  return crops("validation_batch", std::min(count, validation_rows() - first),
               [&](int64_t row) { return train_tokens_ + (first + row) * options_.context; });
}

}  // namespace weft
