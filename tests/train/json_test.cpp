#include "weft/train/json.h"

#include <cmath>
#include <limits>

#include "train/temporary_folder.h"
#include "weft/train/utf8.h"

TEST_SUITE_BEGIN("host");

namespace weft {
namespace {

std::string error(const std::string& text) {
  try {
    parse_json(text, "x");
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST_CASE("json: values and their order come back") {
  const std::string text = R"({"z": [], "a": {}, "t": "q\"\\\n\u0001é", "n": null, "f": [true, false], "i": -3, "d": 0.1})";
  const Json value = parse_json(text, "x");
  CHECK(dump(value) == text);
  CHECK(parse_json(dump(value, 2), "x") == value);
  CHECK(dump(value, 2).starts_with("{\n  \"z\": [],\n  \"a\": {},\n"));
  CHECK(*value.find("t")->as_text() == "q\"\\\n\x01é");
  CHECK(value.find("n")->is_null());
  CHECK(value.find("f")->as_array()->at(0).as_flag() == true);
  CHECK(value.find("none") == nullptr);
  CHECK(Json(1).find("a") == nullptr);
}

TEST_CASE("json: numbers are exact") {
  const uint64_t large = std::numeric_limits<uint64_t>::max();
  const int64_t small = std::numeric_limits<int64_t>::min();
  CHECK(parse_json(dump(large), "x").as_unsigned() == large);
  CHECK(!parse_json(dump(large), "x").as_integer());
  CHECK(parse_json(dump(small), "x").as_integer() == small);
  CHECK(!Json(-1).as_unsigned());
  for (double number : {0.1, 1.0, 1e300, 5e-324, -0.0, 2.0 / 3, 1e21, 123456789.0}) {
    const Json back = parse_json(dump(number), "x");
    CHECK(!back.as_integer());
    CHECK(back.as_number() == number);
    CHECK(std::signbit(*back.as_number()) == std::signbit(number));
  }
  CHECK(Json(1) == Json(1.0));
  CHECK(Json(1) != Json(true));
  CHECK(Json(-1) != Json(large));
  CHECK(Json(1).as_number() == 1.0);
  CHECK(!Json("1").as_number());
}

TEST_CASE("json: errors") {
  CHECK(error("") != "");
  CHECK(error("{\"a\": 1,}").starts_with("x: not valid JSON: parse error at line 1, column 9"));
  CHECK(error("1 2").starts_with("x: not valid JSON: parse error at line 1"));
  CHECK(error("1e999").find("number overflow") != std::string::npos);
  CHECK(error("NaN") != "");
  CHECK(error("\"\\ud800\"") != "");
  CHECK(error("[" + std::string(1000, '1')).size() < 400);
  CHECK(error(R"({"a": {"b": 1, "b": 1}})") == "x: not valid JSON: the name \"b\" stands twice in one object");
  CHECK(error(std::string(1'000'000, '[')) == "x: not valid JSON: more than 32 levels");
  CHECK(error(std::string("1\0 2", 4)) == "x: not valid JSON: a zero byte at 1");
  CHECK_THROWS_WITH_AS(dump(std::nan("")), "json: nan is no JSON number", Error);
  CHECK_THROWS_WITH_AS(dump("\xc3"), "json: a text is not valid UTF-8 at byte 0", Error);
}

TEST_CASE("utf8: every code point comes back, and nothing else is accepted") {
  for (char32_t code = 0; code <= 0x10FFFF; code += code < 0x3000 ? 1 : 37) {
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string text;
    append_utf8(text, code);
    const Utf8Character c = utf8_at(text, 0);
    REQUIRE((c.kind == Utf8Character::Kind::complete && c.code == code && c.bytes == text.size()));
    for (size_t n = 1; n < text.size(); ++n) {
      const Utf8Character part = utf8_at(text.substr(0, n), 0);
      REQUIRE((part.kind == Utf8Character::Kind::cut_off && part.bytes == n));
    }
  }
  // Overlong forms, surrogates, beyond the last code point, lone continuations, bytes that never occur.
  for (const char* bad : {"\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xE0\x9F\xBF", "\xF0\x80\x80\x80", "\xED\xA0\x80", "\xED\xBF\xBF",
                          "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\x80", "\xBF", "\xFE", "\xFF", "\xC3(", "\xE2\x82(", "\xF0\x9F\x98("}) {
    CHECK(utf8_at(bad, 0).kind == Utf8Character::Kind::invalid);
    CHECK(find_invalid_utf8(std::string("ok") + bad) == 2);
  }
  CHECK(utf8_at("\xE2\x82(", 0).bytes == 2);  // goes on at the "("
  CHECK(find_invalid_utf8("aé€😀") == 10);
  CHECK(find_invalid_utf8("aé\xE2\x82") == 3);
  CHECK(describe_character(0xE9) == "\"é\" (U+00E9)");
  CHECK(describe_character('\n') == "U+000A");
}

TEST_CASE("json: thousands of damaged texts are valid or an error") {
  const std::string good =
      R"({"a": [1, 2.5, -3e7, true, null], "näme": {"b": "t\u00e9xt \\ \"q\"", "c": [[[[]]]]}, "d": 18446744073709551615})";
  const int loaded = count_loads(3000, [&](uint64_t seed) {
    const Json value = parse_json(damaged(good, seed), "x");
    CHECK(parse_json(dump(value, 1), "x") == value);
  });
  CHECK(loaded > 100);
  CHECK(loaded < 2900);
}

}  // namespace
}  // namespace weft
