// Characters: what the tokenizer needs to know of Unicode. Nothing else includes utf8proc's header.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace attn::model {

/// A character at the beginning or the end of a text; of no size where none stands there, or no
/// UTF-8.
struct Character {
  std::int32_t code = 0;
  std::size_t size = 0;
};
Character first_character(std::string_view text) noexcept;
Character last_character(std::string_view text) noexcept;

/// Unicode's White_Space.
bool is_space(const Character& character) noexcept;
/// What \w matches: letters, marks, digits, connectors and joiners.
bool is_word(const Character& character) noexcept;

/// Bytes from the beginning that are UTF-8.
std::size_t valid_size(std::string_view text) noexcept;
/// Bytes from the beginning that belong to no character of UTF-8.
std::size_t invalid_size(std::string_view text) noexcept;

/// Normal form C of valid UTF-8.
std::string to_nfc(std::string_view text);

}  // namespace attn::model
