#include "text_stream.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "apps/support/program.hpp"

namespace attn::apps::demo {
namespace {

/// The length of the UTF-8 character that begins with this byte; 0 if none begins with it.
std::size_t length_of_character(unsigned char first) {
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return 2;
  if (first >= 0xe0 && first <= 0xef) return 3;
  return first >= 0xf0 && first <= 0xf4 ? 4 : 0;
}

/// Whether a byte is valid at this place of a character. After some first bytes the range of the
/// second is smaller, because the others encode a surrogate, a code above U+10FFFF, or a character
/// in more bytes than necessary.
bool continues(unsigned char first, std::size_t place, unsigned char byte) {
  const bool second = place == 1;
  const unsigned char least = second && first == 0xe0   ? 0xa0
                              : second && first == 0xf0 ? 0x90
                                                        : 0x80;
  const unsigned char most = second && first == 0xed ? 0x9f : second && first == 0xf4 ? 0x8f : 0xbf;
  return least <= byte && byte <= most;
}

/// How many bytes from `at` on are a valid beginning of one character; 0 if there is none.
std::size_t fitting_bytes(std::string_view bytes, std::size_t at, std::size_t length) {
  if (length == 0) return 0;
  const auto first = static_cast<unsigned char>(bytes[at]);
  std::size_t count = 1;
  while (count < length && at + count < bytes.size() &&
         continues(first, count, static_cast<unsigned char>(bytes[at + count])))
    ++count;
  return count;
}

/// The code of a control character: below space, DEL, or U+0080..U+009F.
std::optional<unsigned> control_code(std::string_view character) {
  const auto first = static_cast<unsigned char>(character.front()),
             last = static_cast<unsigned char>(character.back());
  if (character.size() == 1)
    return (first < 0x20 && first != '\n' && first != '\t') || first == 0x7f
               ? std::optional<unsigned>(first)
               : std::nullopt;
  return character.size() == 2 && first == 0xc2 && last < 0xa0 ? std::optional<unsigned>(last)
                                                               : std::nullopt;
}

}  // namespace

std::string take_printable(std::string& bytes, bool last) {
  constexpr std::string_view replacement = "\xef\xbf\xbd";
  std::string text;
  std::size_t at = 0;
  while (at < bytes.size()) {
    const auto first = static_cast<unsigned char>(bytes[at]);
    const std::size_t length = length_of_character(first);
    const std::size_t fitting = fitting_bytes(bytes, at, length);
    if (fitting < length && at + fitting == bytes.size() && !last) break;
    if (length == 0 || fitting < length) {
      text += replacement;
      at += std::max<std::size_t>(
          fitting, 1);  // one for each longest part of a character, as Unicode advises
      continue;
    }
    const std::string character = bytes.substr(at, length);
    const std::optional<unsigned> control = control_code(character);
    text += control ? fmt::format("\\x{:02x}", *control) : character;
    at += length;
  }
  bytes.erase(0, at);
  return text;
}

void TextStream::write(std::string_view bytes) {
  pending_ += bytes;
  put(false);
}

void TextStream::finish() { put(true); }

void TextStream::put(bool last) {
  fmt::print("{}", take_printable(pending_, last));
  flush_output();  // which ends the program when nobody reads the text any more
}

}  // namespace attn::apps::demo
