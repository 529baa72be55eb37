#include "weft/core/spec.h"

#include <algorithm>
#include <charconv>

#include "weft/core/error.h"

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

template <class T>
T parse(const std::string& kind, const std::string& name, const std::string& option, const std::string& text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  WEFT_CHECK(error == std::errc() && end == text.data() + text.size(), "{} {}: {} expects {}, got \"{}\"", kind, name, option,
             std::is_integral_v<T> ? "an integer" : "a number", text);
  return value;
}

}  // namespace

Spec::Spec(std::string kind, const std::string& text) : kind_(std::move(kind)), name_(text.substr(0, text.find(':'))) {
  for (size_t at = text.find(':'); at < text.size();) {
    const size_t next = std::min(text.find(',', at + 1), text.size());
    const std::string item = text.substr(at + 1, next - at - 1);
    const size_t equals = item.find('=');
    WEFT_CHECK(equals != std::string::npos && equals > 0, "{} {}: expected option=value after the colon, got \"{}\"", kind_, name_, item);
    const std::string option = item.substr(0, equals);
    WEFT_CHECK(values_.emplace(option, item.substr(equals + 1)).second, "{} {}: option {} is given twice", kind_, name_, option);
    at = next;
  }
}

const std::string* Spec::find(const std::string& option) {
  known_.push_back(option);
  auto found = values_.find(option);
  return found == values_.end() ? nullptr : &found->second;
}

int64_t Spec::integer(const std::string& option, int64_t fallback) {
  const std::string* text = find(option);
  return text != nullptr ? parse<int64_t>(kind_, name_, option, *text) : fallback;
}

double Spec::number(const std::string& option, double fallback) {
  const std::string* text = find(option);
  return text != nullptr ? parse<double>(kind_, name_, option, *text) : fallback;
}

bool Spec::flag(const std::string& option, bool fallback) {
  return choice(option, fallback ? "true" : "false", {"true", "false"}) == "true";
}

std::string Spec::text(const std::string& option, const std::string& fallback) {
  const std::string* text = find(option);
  return text != nullptr ? *text : fallback;
}

std::string Spec::choice(const std::string& option, const std::string& fallback, const std::vector<std::string>& choices) {
  const std::string* text = find(option);
  if (text == nullptr) return fallback;
  WEFT_CHECK(std::find(choices.begin(), choices.end(), *text) != choices.end(), "{} {}: {} cannot be \"{}\"; {}", kind_, name_, option,
             *text, suggest(*text, choices));
  return *text;
}

void Spec::check_all_used() const {
  for (const auto& [option, value] : values_) {
    WEFT_CHECK(std::find(known_.begin(), known_.end(), option) != known_.end(), "{} {}: unknown option \"{}\"; {}", kind_, name_, option,
               known_.empty() ? "it takes none" : suggest(option, known_));
  }
}

void Spec::fail_unknown(const std::vector<std::string>& known) const {
  fail("{}: unknown name \"{}\"; {}", kind_, name_, suggest(name_, known));
}

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
