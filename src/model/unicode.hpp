// What the tokenizer needs to know of Unicode, from utf8proc. No other file includes utf8proc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace attn::model {

/// The character at the beginning or the end of a text. Its size, in bytes, is 0 if the text is
/// empty or is not UTF-8 there.
struct Character {
  std::int32_t code = 0;
  std::size_t size = 0;
};
Character first_character(std::string_view text) noexcept;
Character last_character(std::string_view text) noexcept;

/// The number of bytes at the beginning that are valid UTF-8.
std::size_t valid_size(std::string_view text) noexcept;
/// The number of bytes at the beginning before the first that starts a valid character.
std::size_t invalid_size(std::string_view text) noexcept;

/// Unicode's normal form C (UAX #15), as of Unicode 9.0. `text` has to be valid UTF-8. n characters
/// take O(n log n).
std::string to_nfc(std::string_view text);
/// Normal form D, with the same limits.
std::string to_nfd(std::string_view text);
/// Appends a character in UTF-8.
void append_character(std::int32_t code, std::string& text);

}  // namespace attn::model
