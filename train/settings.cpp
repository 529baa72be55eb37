#include "weft/train/settings.h"

#include "weft/core/error.h"
#include "weft/train/files.h"

namespace weft {

Settings::Settings(const Json& json, std::string where) : where_(std::move(where)) {
  WEFT_CHECK(json.as_object() != nullptr, "{}: expected a JSON object", where_);
  for (const JsonMember& member : *json.as_object()) set(member.name, member.value);
}

void Settings::set(const std::string& name, Json value) {
  WEFT_CHECK(value.as_array() == nullptr && value.as_object() == nullptr, "{}: \"{}\" should be a number, a text or a flag, found {}",
             where_, name, dump(value));
  for (JsonMember& member : members_) {
    if (member.name == name) {
      member.value = std::move(value);
      return;
    }
  }
  members_.push_back({name, std::move(value)});
}

const Json* Settings::find(const std::string& name) const {
  for (const JsonMember& member : members_) {
    if (member.name == name) return &member.value;
  }
  return nullptr;
}

const Json& Settings::at(const std::string& name) const {
  const Json* value = find(name);
  WEFT_CHECK(value != nullptr, "{}: \"{}\" is missing", where_, name);
  return *value;
}

void Settings::fail_kind(const std::string& name, const char* expected) const {
  fail("{}: \"{}\" should be {}, found {}", where_, name, expected, dump(at(name)));
}

int64_t Settings::integer(const std::string& name) const {
  const auto value = at(name).as_integer();
  if (!value) fail_kind(name, "an integer");
  return *value;
}

uint64_t Settings::unsigned_integer(const std::string& name) const {
  const auto value = at(name).as_unsigned();
  if (!value) fail_kind(name, "an integer of at least 0");
  return *value;
}

double Settings::number(const std::string& name) const {
  const auto value = at(name).as_number();
  if (!value) fail_kind(name, "a number");
  return *value;
}

const std::string& Settings::text(const std::string& name) const {
  const std::string* value = at(name).as_text();
  if (value == nullptr) fail_kind(name, "a text");
  return *value;
}

bool Settings::flag(const std::string& name) const {
  const auto value = at(name).as_flag();
  if (!value) fail_kind(name, "true or false");
  return *value;
}

void write_settings(const std::filesystem::path& path, const Settings& settings) {
  write_file_atomically(path, dump(settings.json(), 2) + "\n");
}

Settings read_settings(const std::filesystem::path& path) { return Settings(parse_json(read_file(path), path.string()), path.string()); }

std::vector<std::string> differing_settings(const Settings& before, const Settings& now, const std::vector<std::string>& names) {
  std::vector<std::string> found;
  const auto text = [](const Json* value) { return value != nullptr ? dump(*value) : "not given"; };
  for (const std::string& name : names) {
    const Json *a = before.find(name), *b = now.find(name);
    const bool same = a != nullptr && b != nullptr ? *a == *b : a == b;
    if (!same) found.push_back(format("{} was {}, is {}", name, text(a), text(b)));
  }
  return found;
}

void check_same_settings(const std::string& what, const Settings& before, const Settings& now, const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& difference : differing_settings(before, now, names)) list += (list.empty() ? "" : "; ") + difference;
  WEFT_CHECK(list.empty(), "{}: settings differ: {} (leave them as they were, or start another run)", what, list);
}

}  // namespace weft
