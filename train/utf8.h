// UTF-8, read strictly: overlong forms, surrogates and code points beyond U+10FFFF are no characters.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace weft {

/// What stands at one place of a text.
struct Utf8Character {
  enum class Kind { complete, invalid, cut_off };
  Kind kind = Kind::invalid;
  /// The code point of a complete character.
  char32_t code = 0;
  /// How far to advance, at least 1: the length of the character, of the invalid sequence, or of the part that is there.
  size_t bytes = 1;
};

/// Reads the character that starts at text[at]; `at` must be inside. `cut_off`: the text ends within what may become a character.
Utf8Character utf8_at(std::string_view text, size_t at);

void append_utf8(std::string& text, char32_t code);

/// The place of the first byte that belongs to no character, or text.size().
size_t find_invalid_utf8(std::string_view text);

/// For messages: the character and its name, `"é" (U+00E9)`; control characters show their name only.
std::string describe_character(char32_t code);

}  // namespace weft
