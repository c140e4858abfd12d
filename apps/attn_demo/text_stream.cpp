#include "text_stream.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

namespace attn::demo {
namespace {

/// Bytes of the character that begins with this one; 0 if none does.
std::size_t length_of_character(unsigned char first) {
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return 2;
  if (first >= 0xe0 && first <= 0xef) return 3;
  return first >= 0xf0 && first <= 0xf4 ? 4 : 0;
}

bool continues(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

bool obeyed_by_terminals(unsigned char byte) { return (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f; }

}  // namespace

std::string take_printable(std::string& bytes, bool last) {
  constexpr std::string_view replacement = "\xef\xbf\xbd";
  std::string text;
  std::size_t at = 0;
  while (at < bytes.size()) {
    const auto first = static_cast<unsigned char>(bytes[at]);
    const std::size_t length = length_of_character(first);
    const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    const auto end = begin + static_cast<std::ptrdiff_t>(std::min(length, bytes.size() - at));
    const bool whole = length > 0 && std::all_of(begin + 1, end, continues);
    if (whole && at + length > bytes.size() && !last) break;
    if (!whole || at + length > bytes.size()) {
      text += replacement;
      ++at;
      continue;
    }
    text += obeyed_by_terminals(first) ? fmt::format("\\x{:02x}", first) : std::string(begin, end);
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
  std::fflush(stdout);
}

}  // namespace attn::demo
