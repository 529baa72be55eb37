#include "weft/train/json.h"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "weft/core/error.h"
#include "weft/train/utf8.h"

namespace weft {
namespace {

constexpr size_t max_depth = 32;
constexpr size_t max_message = 300;  // the parser quotes what it read last, however long

// Builds a Json from the parser's events. The open containers are a stack; a closed one becomes a value of the one below.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Json result;
  std::string problem;

  bool null() override { return add({}); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(true); }
  bool start_array(std::size_t) override { return open(false); }
  bool key(string_t& name) override {
    if (!open_.back().names.insert(name).second) {
      problem = "the name \"" + name + "\" stands twice in one object";
      return false;
    }
    open_.back().members.push_back({std::move(name), {}});
    return true;
  }
  bool end_object() override {
    Json::Object members = std::move(open_.back().members);
    open_.pop_back();
    return add(std::move(members));
  }
  bool end_array() override {
    Json::Array items = std::move(open_.back().items);
    open_.pop_back();
    return add(std::move(items));
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    problem = error.what();
    const size_t prefix = problem.find("] ");  // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    if (prefix != std::string::npos) problem.erase(0, prefix + 2);
    return false;
  }

 private:
  struct Container {
    bool object = false;
    Json::Object members;
    Json::Array items;
    std::unordered_set<std::string> names;
  };

  bool open(bool object) {
    if (open_.size() == max_depth) {
      problem = format("more than {} levels", max_depth);
      return false;
    }
    open_.emplace_back();
    open_.back().object = object;
    return true;
  }
  bool add(Json value) {
    if (open_.empty()) {
      result = std::move(value);
    } else if (open_.back().object) {
      open_.back().members.back().value = std::move(value);
    } else {
      open_.back().items.push_back(std::move(value));
    }
    return true;
  }

  std::vector<Container> open_;
};

void write_text(std::string& out, const std::string& text) {
  const size_t invalid = find_invalid_utf8(text);
  WEFT_CHECK(invalid == text.size(), "json: a text is not valid UTF-8 at byte {}", invalid);
  out += '"';
  for (char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          const char* digits = "0123456789abcdef";
          out += "\\u00";
          out += digits[c >> 4];
          out += digits[c & 15];
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

void write_double(std::string& out, double number) {
  WEFT_CHECK(std::isfinite(number), "json: {} is no JSON number", number);
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, number).ptr;  // the shortest text that reads back to the same bits
  const std::string_view text(buffer, static_cast<size_t>(end - buffer));
  out += text;
  if (text.find_first_of(".e") == std::string_view::npos) out += ".0";  // stays a double
}

struct Writer {
  int indent;
  std::string out;

  void write(const Json& value, int depth) {
    if (const auto* members = value.as_object()) {
      write_list('{', *members, '}', depth, [&](const JsonMember& member) {
        write_text(out, member.name);
        out += ": ";
        write(member.value, depth + 1);
      });
    } else if (const auto* items = value.as_array()) {
      write_list('[', *items, ']', depth, [&](const Json& item) { write(item, depth + 1); });
    } else if (const auto* text = value.as_text()) {
      write_text(out, *text);
    } else if (const auto flag = value.as_flag()) {
      out += *flag ? "true" : "false";
    } else if (const auto integer = value.as_integer()) {
      out += std::to_string(*integer);
    } else if (const auto large = value.as_unsigned()) {
      out += std::to_string(*large);
    } else if (const auto number = value.as_number()) {
      write_double(out, *number);
    } else {
      out += "null";
    }
  }

 private:
  template <class List, class F>
  void write_list(char open, const List& list, char close, int depth, F write_item) {
    out += open;
    for (size_t i = 0; i < list.size(); ++i) {
      if (i > 0) out += indent > 0 ? "," : ", ";
      start_line(depth + 1);
      write_item(list[i]);
    }
    if (!list.empty()) start_line(depth);
    out += close;
  }
  void start_line(int depth) {
    if (indent > 0) out.append(1, '\n').append(static_cast<size_t>(indent * depth), ' ');
  }
};

}  // namespace

Json::Json(Array array) : kind_(Kind::array), array_(std::move(array)) {}
Json::Json(Object object) : kind_(Kind::object), object_(std::move(object)) {}

std::optional<bool> Json::as_flag() const {
  if (kind_ == Kind::flag) return integer_ != 0;
  return {};
}

std::optional<int64_t> Json::as_integer() const {
  if (kind_ == Kind::integer) return integer_;
  return {};
}

std::optional<uint64_t> Json::as_unsigned() const {
  if (kind_ == Kind::large || (kind_ == Kind::integer && integer_ >= 0)) return static_cast<uint64_t>(integer_);
  return {};
}

std::optional<double> Json::as_number() const {
  if (kind_ == Kind::integer) return static_cast<double>(integer_);
  if (kind_ == Kind::large) return static_cast<double>(static_cast<uint64_t>(integer_));
  if (kind_ == Kind::number) return number_;
  return {};
}

const Json* Json::find(std::string_view name) const {
  if (const Object* object = as_object()) {
    for (const JsonMember& member : *object) {
      if (member.name == name) return &member.value;
    }
  }
  return nullptr;
}

bool Json::operator==(const Json& other) const {
  if (kind_ != other.kind_)
    return (kind_ == Kind::number || other.kind_ == Kind::number) && as_number() && as_number() == other.as_number();
  return integer_ == other.integer_ && number_ == other.number_ && text_ == other.text_ && array_ == other.array_ &&
         object_ == other.object_;
}

Json parse_json(std::string_view text, std::string_view what) {
  // The parser takes a zero byte for the end of its input.
  const size_t zero = text.find('\0');
  WEFT_CHECK(zero == std::string_view::npos, "{}: not valid JSON: a zero byte at {}", what, zero);
  Builder builder;
  const bool good = nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  WEFT_CHECK(good, "{}: not valid JSON: {}", what, builder.problem.substr(0, max_message));
  return std::move(builder.result);
}

std::string dump(const Json& value, int indent) {
  Writer writer{indent, {}};
  writer.write(value, 0);
  return std::move(writer.out);
}

}  // namespace weft
