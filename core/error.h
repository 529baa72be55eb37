// WEFT_CHECK and weft::Error: one line per check at the top of an op, with a message a user can act on.
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

namespace weft {

/// Every error that the library reports. The message names the op, what was expected, what came, and the way out if there is one.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};
/// The device has no memory left for a tensor. The library goes on with what there is.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};
/// CUDA, or one of its libraries, reports that something went wrong; with its number and text.
class DeviceError : public Error {
 public:
  using Error::Error;
};

namespace detail {
std::string to_text(bool v);
std::string to_text(int v);
std::string to_text(long v);
std::string to_text(long long v);
std::string to_text(unsigned v);
std::string to_text(unsigned long v);
std::string to_text(double v);
std::string to_text(std::string_view v);
inline std::string to_text(const char* v) { return v; }
inline std::string to_text(const std::string& v) { return v; }

/// Replaces each {} of `format` by the next of `parts`.
std::string format_parts(std::string_view format, std::initializer_list<std::string> parts);
}  // namespace detail

/// "{}" placeholders are replaced by the arguments: numbers, text, Shape, DType, Device (anything with a `to_text` overload).
template <class... Args>
std::string format(std::string_view text, const Args&... args) {
  using detail::to_text;
  return detail::format_parts(text, {to_text(args)...});
}

/// Throws weft::Error with a formatted message.
template <class... Args>
[[noreturn]] void fail(std::string_view text, const Args&... args) {
  throw Error(format(text, args...));
}

}  // namespace weft

/// WEFT_CHECK(condition, "op: expected {}, got {}", a, b): the message is built only when the condition fails.
#define WEFT_CHECK(condition, ...) \
  do {                             \
    if (!(condition)) [[unlikely]] \
      ::weft::fail(__VA_ARGS__);   \
  } while (false)
