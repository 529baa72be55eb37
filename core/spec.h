// Things chosen by name on a command line: "local:window=128,overlap=true" names a mechanism or a model and sets its options.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace weft {

/// A parsed "name" or "name:option=value,option=value". `kind` ("attention", "model") opens every error message.
class Spec {
 public:
  Spec(std::string kind, const std::string& text);

  const std::string& name() const { return name_; }
  /// Options by name, with the value that stands for "not given". A value that does not parse is an error.
  int64_t integer(const std::string& option, int64_t fallback);
  double number(const std::string& option, double fallback);
  bool flag(const std::string& option, bool fallback);
  std::string text(const std::string& option, const std::string& fallback);
  /// One of `choices`.
  std::string choice(const std::string& option, const std::string& fallback, const std::vector<std::string>& choices);
  /// An error that lists an option that was given but nobody asked for, and what could have been given.
  void check_all_used() const;
  /// An error for an unknown name: lists the known ones and the nearest.
  [[noreturn]] void fail_unknown(const std::vector<std::string>& known) const;

 private:
  const std::string* find(const std::string& option);
  std::string kind_, name_;
  std::map<std::string, std::string> values_;
  std::vector<std::string> known_;
};

/// "did you mean \"local\"? known: alibi, local, ..." (the question only if something is close).
std::string suggest(const std::string& name, const std::vector<std::string>& known);

}  // namespace weft
