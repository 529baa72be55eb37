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
  const auto& [heads, kv_heads, head_dim, max_len, causal] = settings;
  WEFT_CHECK(heads >= 1 && head_dim >= 1 && kv_heads >= 0 && max_len >= 0,
             "attention {}: heads and head_dim must be at least 1, kv_heads and max_len not negative, got {}, {}, {} and {}", text, heads,
             head_dim, kv_heads, max_len);
  WEFT_CHECK(kv_heads == 0 || heads % kv_heads == 0, "attention {}: heads ({}) must be divisible by kv_heads ({})", text, heads, kv_heads);
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
