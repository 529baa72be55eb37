#include "weft/attention/mechanism.h"

#include <algorithm>
#include <charconv>

#include "weft/core/names.h"

namespace weft {

#define X(name) WEFT_MECHANISM(name);
#include "mechanisms.inc"
#undef X

namespace {

const std::vector<MechanismEntry>& entries() {
  static const std::vector<MechanismEntry> table = {
#define X(name) {#name, make_mechanism_##name},
#include "mechanisms.inc"
#undef X
  };
  return table;
}

template <class T>
T parse(const std::string& mechanism, const std::string& name, const std::string& text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  WEFT_CHECK(error == std::errc() && end == text.data() + text.size(), "attention {}: {} expects a number, got \"{}\"", mechanism, name,
             text);
  return value;
}

}  // namespace

const std::string* MechanismArguments::find(const std::string& name) {
  known_.push_back(name);
  auto found = values_.find(name);
  return found == values_.end() ? nullptr : &found->second;
}

int64_t MechanismArguments::integer(const std::string& name, int64_t fallback) {
  const std::string* text = find(name);
  return text != nullptr ? parse<int64_t>(mechanism_, name, *text) : fallback;
}

double MechanismArguments::number(const std::string& name, double fallback) {
  const std::string* text = find(name);
  return text != nullptr ? parse<double>(mechanism_, name, *text) : fallback;
}

bool MechanismArguments::flag(const std::string& name, bool fallback) {
  const std::string* text = find(name);
  if (text == nullptr) return fallback;
  WEFT_CHECK(*text == "true" || *text == "false", "attention {}: {} expects true or false, got \"{}\"", mechanism_, name, *text);
  return *text == "true";
}

void MechanismArguments::check_all_used() const {
  for (const auto& [name, value] : values_) {
    WEFT_CHECK(std::find(known_.begin(), known_.end(), name) != known_.end(), "attention {}: unknown option {}{}", mechanism_, name,
               known_.empty() ? "; it takes none" : "; " + suggest(name, known_));
  }
}

Mechanism make_mechanism(const std::string& spec, const MechanismSettings& settings) {
  const size_t colon = spec.find(':');
  const std::string name = spec.substr(0, colon);
  std::map<std::string, std::string> values;
  for (size_t at = colon; at < spec.size();) {
    const size_t next = std::min(spec.find(',', at + 1), spec.size());
    const std::string item = spec.substr(at + 1, next - at - 1);
    const size_t equals = item.find('=');
    WEFT_CHECK(equals != std::string::npos && equals > 0, "attention {}: expected option=value after the colon, got \"{}\"", name, item);
    WEFT_CHECK(values.emplace(item.substr(0, equals), item.substr(equals + 1)).second, "attention {}: option {} is given twice", name,
               item.substr(0, equals));
    at = next;
  }
  for (const MechanismEntry& entry : entries()) {
    if (entry.name != name) continue;
    MechanismArguments arguments(name, std::move(values));
    auto body = entry.make(arguments, settings);
    arguments.check_all_used();
    return Mechanism(spec, std::move(body));
  }
  fail("attention: unknown mechanism \"{}\"; {}", name, suggest(name, mechanism_names()));
}

std::vector<std::string> mechanism_names() {
  std::vector<std::string> names;
  for (const MechanismEntry& entry : entries()) names.push_back(entry.name);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace weft
