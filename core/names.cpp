#include "weft/core/names.h"

#include <algorithm>
#include <cstdint>

namespace weft {
namespace {

// Levenshtein distance.
int64_t distance(const std::string& a, const std::string& b) {
  std::vector<int64_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int64_t>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int64_t diagonal = row[0];
    row[0] = static_cast<int64_t>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int64_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string suggest(const std::string& name, const std::vector<std::string>& known) {
  std::string text, nearest;
  int64_t best = static_cast<int64_t>(name.size() + 1) / 2 + 1;
  for (const std::string& candidate : known) {
    const int64_t d = distance(name, candidate);
    if (d < best) {
      best = d;
      nearest = candidate;
    }
    text += (text.empty() ? "known: " : ", ") + candidate;
  }
  return nearest.empty() ? text : "did you mean \"" + nearest + "\"? " + text;
}

}  // namespace weft
