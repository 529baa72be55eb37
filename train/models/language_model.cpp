#include "weft/train/models/language_model.h"

#include <algorithm>

namespace weft {

#define X(name) WEFT_LANGUAGE_MODEL(name);
#include "language_models.inc"
#undef X

namespace {

struct LanguageModelEntry {
  std::string name;
  std::function<std::shared_ptr<LanguageModelBody>(Spec&, const LanguageModelSettings&)> make;
};

const std::vector<LanguageModelEntry>& entries() {
  static const std::vector<LanguageModelEntry> table = {
#define X(name) {#name, make_language_model_##name},
#include "language_models.inc"
#undef X
  };
  return table;
}

}  // namespace

LanguageModel make_language_model(const std::string& text, const LanguageModelSettings& settings) {
  Spec spec("model", text);
  for (const LanguageModelEntry& entry : entries()) {
    if (entry.name != spec.name()) continue;
    auto body = entry.make(spec, settings);
    spec.check_all_used();
    return LanguageModel(text, settings, std::move(body));
  }
  spec.fail_unknown(language_model_names());
}

std::vector<std::string> language_model_names() {
  std::vector<std::string> names;
  for (const LanguageModelEntry& entry : entries()) names.push_back(entry.name);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace weft
