// Test helpers: a folder that goes away, files in it, and random damage to files.
#pragma once

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "weft/core/error.h"
#include "weft/core/random.h"

namespace weft {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "weft-test-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  /// Number of entries, hidden ones included.
  int64_t entries() const { return std::distance(std::filesystem::directory_iterator(path_), std::filesystem::directory_iterator()); }

 private:
  std::filesystem::path path_;
};

inline void put(const std::filesystem::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary).write(content.data(), static_cast<std::streamsize>(content.size()));
}

inline std::string get(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// The message of the weft::Error that f throws, with the folder's name cut out; "" if it throws none.
template <class F>
std::string error_of(const TemporaryFolder& folder, F f) {
  try {
    f();
  } catch (const Error& error) {
    std::string message = error.what();
    const std::string prefix = folder.path().string() + "/";
    for (size_t at = message.find(prefix); at != std::string::npos; at = message.find(prefix)) message.erase(at, prefix.size());
    return message;
  }
  return "";
}

/// A damaged copy of `content`, a function of `seed` alone: bits flipped, bytes set, removed, repeated or inserted, the end cut off,
/// digits changed. `within`: damage only the first so many bytes (0: anywhere).
inline std::string damaged(std::string content, uint64_t seed, size_t within = 0) {
  const RandomKey key{seed, 0};
  uint64_t drawn = 0;
  const auto below = [&](size_t n) { return n == 0 ? 0 : key.word(drawn++) % n; };
  for (size_t times = 1 + below(4); times > 0; --times) {
    const size_t reach = within == 0 ? content.size() : std::min(within, content.size());
    const size_t at = below(reach), n = 1 + below(below(4) == 0 ? 40 : 3);
    if (reach == 0) return std::string(1, static_cast<char>(below(256)));
    switch (below(8)) {
      case 0:
        content[at] = static_cast<char>(content[at] ^ (1 << below(8)));
        break;
      case 1:
        content[at] = static_cast<char>(below(256));
        break;
      case 2:
        content.erase(at, n);
        break;
      case 3:
        content.insert(below(reach), content.substr(at, n));
        break;
      case 4:
        content.insert(at, n, static_cast<char>(below(256)));
        break;
      case 5:
        content.resize(within == 0 ? at : content.size() - std::min<size_t>(n, content.size()));
        break;
      default:  // numbers and punctuation are where parsers are fooled
        for (size_t i = at; i < reach; ++i) {
          if (content[i] >= '0' && content[i] <= '9') {
            content[i] = static_cast<char>('0' + below(10));
            if (below(4) == 0) content.insert(i, below(2) == 0 ? "-" : "99999999999");
            break;
          }
          if (below(16) == 0 && std::string_view("{}[],:\"").find(content[i]) != std::string_view::npos) {
            content[i] = "{}[],:\"\\"[below(8)];
            break;
          }
        }
    }
  }
  return content;
}

/// Every outcome of `load` on a damaged file is a valid load or a weft::Error; returns how many loaded.
template <class F>
int count_loads(int files, F load) {
  int loaded = 0;
  for (int seed = 0; seed < files; ++seed) {
    CAPTURE(seed);
    try {
      load(static_cast<uint64_t>(seed));
      ++loaded;
    } catch (const Error& error) {
      CHECK(std::string_view(error.what()).size() > 10);
    }
  }
  return loaded;
}

}  // namespace weft
