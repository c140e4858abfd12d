#include "text_stream.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "apps/support/program.hpp"
#include "apps/support/utf8.hpp"

namespace attn::apps::demo {
namespace {

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
    const Utf8Character next = utf8_character(std::string_view(bytes).substr(at));
    if (next.fitting < next.length && at + next.fitting == bytes.size() && !last) break;
    if (!next.is_whole()) {
      text += replacement;
      at += std::max<std::size_t>(
          next.fitting, 1);  // one for each longest part of a character, as Unicode advises
      continue;
    }
    const std::string character = bytes.substr(at, next.length);
    const std::optional<unsigned> control = control_code(character);
    text += control ? fmt::format("\\x{:02x}", *control) : character;
    at += next.length;
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
