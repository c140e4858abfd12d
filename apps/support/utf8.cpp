#include "apps/support/utf8.hpp"

namespace attn::apps {
namespace {

std::size_t length_of_character(unsigned char first) noexcept {
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return 2;
  if (first >= 0xe0 && first <= 0xef) return 3;
  return first >= 0xf0 && first <= 0xf4 ? 4 : 0;
}

/// Whether a byte is valid at this place of a character. After some first bytes the range of the
/// second is smaller, because the others encode a surrogate, a code above U+10FFFF, or a character
/// in more bytes than necessary.
bool continues(unsigned char first, std::size_t place, unsigned char byte) noexcept {
  const bool second = place == 1;
  const unsigned char least = second && first == 0xe0   ? 0xa0
                              : second && first == 0xf0 ? 0x90
                                                        : 0x80;
  const unsigned char most = second && first == 0xed ? 0x9f : second && first == 0xf4 ? 0x8f : 0xbf;
  return least <= byte && byte <= most;
}

}  // namespace

Utf8Character utf8_character(std::string_view bytes) noexcept {
  const auto first = static_cast<unsigned char>(bytes.front());
  Utf8Character character{.length = length_of_character(first)};
  if (character.length == 0) return character;
  character.fitting = 1;
  while (character.fitting < character.length && character.fitting < bytes.size() &&
         continues(first, character.fitting, static_cast<unsigned char>(bytes[character.fitting])))
    ++character.fitting;
  return character;
}

std::size_t utf8_size(std::string_view bytes) noexcept {
  std::size_t size = 0;
  while (size < bytes.size()) {
    const Utf8Character character = utf8_character(bytes.substr(size));
    if (!character.is_whole()) break;
    size += character.length;
  }
  return size;
}

}  // namespace attn::apps
