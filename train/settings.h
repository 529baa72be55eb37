// Settings: names with a number, a text or a flag. The config.json of a run folder, and the numbers of a checkpoint.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "weft/train/json.h"

namespace weft {

/// A flat map in the order of insertion. Values keep their exact bits through a file (see Json).
class Settings {
 public:
  Settings() = default;
  /// From the members of a JSON object; lists and objects as values are an error. `where` opens this and later messages.
  Settings(const Json& json, std::string where);

  /// Adds or replaces. The value must be a number, a text, a flag or null ("not given").
  void set(const std::string& name, Json value);

  /// nullptr if there is none of that name.
  const Json* find(const std::string& name) const;
  // An error if the name is missing or the value is of another kind.
  int64_t integer(const std::string& name) const;
  uint64_t unsigned_integer(const std::string& name) const;
  double number(const std::string& name) const;
  const std::string& text(const std::string& name) const;
  bool flag(const std::string& name) const;

  const Json::Object& members() const { return members_; }
  Json json() const { return members_; }

 private:
  const Json& at(const std::string& name) const;
  [[noreturn]] void fail_kind(const std::string& name, const char* expected) const;
  Json::Object members_;
  std::string where_ = "settings";
};

/// One setting a line, written atomically.
void write_settings(const std::filesystem::path& path, const Settings& settings);
Settings read_settings(const std::filesystem::path& path);

/// The names in `names` whose values differ, or which only one side has, as phrases: `dim was 128, is 256`.
std::vector<std::string> differing_settings(const Settings& before, const Settings& now, const std::vector<std::string>& names);

/// An error that says which of the settings `names` differ; `what` opens it ("resume").
void check_same_settings(const std::string& what, const Settings& before, const Settings& now, const std::vector<std::string>& names);

}  // namespace weft
