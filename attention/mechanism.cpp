#include "weft/attention/mechanism.h"

#include <algorithm>

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

}  // namespace

Mechanism make_mechanism(const std::string& text, const MechanismSettings& settings) {
  Spec spec("attention", text);
  for (const MechanismEntry& entry : entries()) {
    if (entry.name != spec.name()) continue;
    auto body = entry.make(spec, settings);
    spec.check_all_used();
    return Mechanism(text, std::move(body));
  }
  spec.fail_unknown(mechanism_names());
}

std::vector<std::string> mechanism_names() {
  std::vector<std::string> names;
  for (const MechanismEntry& entry : entries()) names.push_back(entry.name);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace weft
