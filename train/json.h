// JSON values: configurations, metrics, tokenizers, and the headers of weight files.
//
// Reading is strict: a duplicate name, invalid UTF-8, a number out of range or more than 32 levels are errors. The parser behind it
// (nlohmann/json) is compiled in json.cpp only.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace weft {

/// A member of an object. A template, so that it is complete once Json is.
template <class Value>
struct NamedValue {
  std::string name;
  Value value;
  bool operator==(const NamedValue&) const = default;
};
class Json;
using JsonMember = NamedValue<Json>;

/// One value. Integers are kept exactly (all of int64 and uint64), doubles are written so that they read back to the same bits.
class Json {
 public:
  using Array = std::vector<Json>;
  /// Members in the order of the text.
  using Object = std::vector<JsonMember>;

  Json() = default;  // null
  Json(std::same_as<bool> auto flag) : kind_(Kind::flag), integer_(flag) {}
  Json(double number) : kind_(Kind::number), number_(number) {}
  template <std::integral T>
  requires(!std::same_as<T, bool>) Json(T integer)
      : kind_(std::in_range<int64_t>(integer) ? Kind::integer : Kind::large), integer_(static_cast<int64_t>(integer)) {}
  Json(std::string text) : kind_(Kind::text), text_(std::move(text)) {}
  Json(std::string_view text) : Json(std::string(text)) {}
  Json(const char* text) : Json(std::string(text)) {}
  Json(Array array);
  Json(Object object);

  bool is_null() const { return kind_ == Kind::null; }
  // The value, if it is of that kind; nothing otherwise.
  std::optional<bool> as_flag() const;
  /// An integer that fits.
  std::optional<int64_t> as_integer() const;
  std::optional<uint64_t> as_unsigned() const;
  /// An integer or a double.
  std::optional<double> as_number() const;
  const std::string* as_text() const { return kind_ == Kind::text ? &text_ : nullptr; }
  const Array* as_array() const { return kind_ == Kind::array ? &array_ : nullptr; }
  const Object* as_object() const { return kind_ == Kind::object ? &object_ : nullptr; }
  /// The member of an object; nullptr if this is no object or has none of that name.
  const Json* find(std::string_view name) const;

  /// Numbers are equal by value: 1 and 1.0 are.
  bool operator==(const Json& other) const;

 private:
  enum class Kind : uint8_t { null, flag, integer, large /* beyond int64 */, number, text, array, object };
  Kind kind_ = Kind::null;
  int64_t integer_ = 0;  // flag, integer; large: the bits of the uint64
  double number_ = 0;
  std::string text_;
  Array array_;
  Object object_;
};

/// One JSON value and nothing else but white space. Errors begin with `what` ("config.json") and say where the text is wrong.
Json parse_json(std::string_view text, std::string_view what);

/// The text of a value: on one line (indent 0), or with one member a line. NaN, infinities and invalid UTF-8 are errors.
std::string dump(const Json& value, int indent = 0);

}  // namespace weft
