#include "weft/train/utf8.h"

#include <fmt/format.h>

namespace weft {

Utf8Character utf8_at(std::string_view text, size_t at) {
  using Kind = Utf8Character::Kind;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(at);
  if (lead < 0x80) return {Kind::complete, lead, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Kind::invalid, 0, 1};

  // The second byte has a smaller range after some leads: no overlong forms, no surrogates, nothing beyond U+10FFFF.
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  char32_t code = lead & (0xFFU >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if (at + i >= text.size()) return {Kind::cut_off, 0, i};
    const unsigned char next = byte(at + i);
    if (next < (i == 1 ? low : 0x80) || next > (i == 1 ? high : 0xBF)) return {Kind::invalid, 0, i};
    code = (code << 6) | (next & 0x3FU);
  }
  return {Kind::complete, code, length};
}

void append_utf8(std::string& text, char32_t code) {
  const auto put = [&](char32_t byte) { text += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | (code >> 6));
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | (code >> 12));
    put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | (code >> 18));
    put(0x80 | ((code >> 12) & 0x3F));
    put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

size_t find_invalid_utf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Character c = utf8_at(text, at);
    if (c.kind != Utf8Character::Kind::complete) return at;
    at += c.bytes;
  }
  return text.size();
}

std::string describe_character(char32_t code) {
  const std::string name = fmt::format("U+{:04X}", static_cast<uint32_t>(code));
  if (code < 0x20 || (code >= 0x7F && code < 0xA0)) return name;
  std::string text = "\"";
  append_utf8(text, code);
  return text + "\" (" + name + ")";
}

}  // namespace weft
