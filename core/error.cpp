#include "weft/core/error.h"

#include <fmt/format.h>

namespace weft::detail {

std::string to_text(bool v) { return v ? "true" : "false"; }
std::string to_text(int v) { return std::to_string(v); }
std::string to_text(long v) { return std::to_string(v); }
std::string to_text(long long v) { return std::to_string(v); }
std::string to_text(unsigned v) { return std::to_string(v); }
std::string to_text(unsigned long v) { return std::to_string(v); }
std::string to_text(double v) { return fmt::format("{:.6g}", v); }
std::string to_text(std::string_view v) { return std::string(v); }

std::string format_parts(std::string_view format, std::initializer_list<std::string> parts) {
  std::string text;
  auto part = parts.begin();
  for (size_t i = 0; i < format.size(); ++i) {
    if (format.substr(i, 2) == "{}" && part != parts.end()) {
      text += *part++;
      ++i;
    } else {
      text += format[i];
    }
  }
  return text;
}

}  // namespace weft::detail
