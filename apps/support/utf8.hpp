// Which bytes are UTF-8.
#pragma once

#include <cstddef>
#include <string_view>

namespace attn::apps {

/// What stands at the beginning of some bytes, which are not empty.
struct Utf8Character {
  std::size_t length = 0;   // of the character that begins with the first byte; 0 if none does
  std::size_t fitting = 0;  // bytes that are a valid beginning of it

  bool is_whole() const noexcept { return length > 0 && fitting == length; }
};
Utf8Character utf8_character(std::string_view bytes) noexcept;

/// The number of bytes before the first that is not UTF-8.
std::size_t utf8_size(std::string_view bytes) noexcept;

}  // namespace attn::apps
