#include "io/message.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace attn::io {
namespace {

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      result += fmt::format("\\x{:02x}", byte);
    else
      result += c;
  }
  return result;
}

/// Whether a byte continues a character of UTF-8, rather than begins one.
bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

}  // namespace

void fail(const std::string& file, const std::string& what, ErrorCode code) {
  throw Error(code, fmt::format("{}: {}", escaped(file), what));
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t max_size = 100;
  if (text.size() <= max_size) return fmt::format("'{}'", escaped(text));
  std::size_t cut = max_size;
  while (cut > 0 && is_continuation(text[cut])) --cut;
  return fmt::format("'{}...'", escaped(text.substr(0, cut)));
}

std::string list_names(std::span<const std::string> names, std::size_t max_listed) {
  std::string list;
  for (std::size_t n = 0; n < std::min(names.size(), max_listed); ++n)
    list += fmt::format("{}{}", n == 0 ? "" : ", ", in_quotes(names[n]));
  if (names.size() > max_listed) list += fmt::format(" and {} more", names.size() - max_listed);
  return list.empty() ? "no tensors" : list;
}

}  // namespace attn::io
