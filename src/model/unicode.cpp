#include "model/unicode.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

namespace attn::model {
namespace {

constexpr std::size_t max_character_size = 4;

const utf8proc_uint8_t* bytes_of(std::string_view text) {
  return reinterpret_cast<const utf8proc_uint8_t*>(text.data());
}

constexpr auto compose_options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);

/// The canonical decompositions of all characters of valid UTF-8, one after another.
std::vector<utf8proc_int32_t> decomposed(std::string_view text) {
  constexpr std::size_t longest = 4;  // that any canonical decomposition is
  std::vector<utf8proc_int32_t> codes;
  codes.reserve(text.size());
  while (!text.empty()) {
    const Character character = first_character(text);
    std::array<utf8proc_int32_t, longest> parts{};
    const utf8proc_ssize_t size =
        utf8proc_decompose_char(character.code, parts.data(), longest, compose_options, nullptr);
    codes.insert(codes.end(), parts.begin(), parts.begin() + size);
    text.remove_prefix(character.size);
  }
  return codes;
}

/// The canonical ordering: each run of characters whose combining class is not 0 is sorted by the
/// class, and those of one class keep their order.
void sort_marks(std::vector<utf8proc_int32_t>& codes) {
  const auto combining_class = [](utf8proc_int32_t code) {
    return utf8proc_get_property(code)->combining_class;
  };
  const auto is_mark = [&](utf8proc_int32_t code) { return combining_class(code) != 0; };
  for (auto end = codes.begin(); end != codes.end();) {
    const auto begin = std::find_if(end, codes.end(), is_mark);
    end = std::find_if_not(begin, codes.end(), is_mark);
    std::stable_sort(begin, end, [&](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining_class(a) < combining_class(b);
    });
  }
}

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

}  // namespace

Character first_character(std::string_view text) noexcept {
  if (text.empty()) return {};
  utf8proc_int32_t code = 0;
  const utf8proc_ssize_t size = utf8proc_iterate(
      bytes_of(text), static_cast<utf8proc_ssize_t>(std::min(text.size(), max_character_size)),
      &code);
  return size > 0 ? Character{code, static_cast<std::size_t>(size)} : Character{};
}

Character last_character(std::string_view text) noexcept {
  std::size_t size = std::min<std::size_t>(text.size(), 1);
  while (size < std::min(text.size(), max_character_size) &&
         is_continuation(text[text.size() - size]))
    ++size;
  const Character character = first_character(text.substr(text.size() - size));
  return character.size == size ? character : Character{};
}

bool is_space(const Character& character) noexcept {
  if (character.size == 0) return false;
  if ((character.code >= '\t' && character.code <= '\r') || character.code == 0x85) return true;
  const utf8proc_category_t category = utf8proc_category(character.code);
  return category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
         category == UTF8PROC_CATEGORY_ZP;
}

bool is_word(const Character& character) noexcept {
  if (character.size == 0) return false;
  if (character.code == 0x200c || character.code == 0x200d) return true;  // joiners
  switch (utf8proc_category(character.code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return false;
  }
}

std::size_t valid_size(std::string_view text) noexcept {
  std::size_t size = 0;
  while (size < text.size()) {
    if (static_cast<unsigned char>(text[size]) < 0x80) {
      ++size;
    } else if (const Character character = first_character(text.substr(size)); character.size > 0) {
      size += character.size;
    } else {
      break;
    }
  }
  return size;
}

std::size_t invalid_size(std::string_view text) noexcept {
  std::size_t size = 0;
  while (size < text.size() && first_character(text.substr(size)).size == 0) ++size;
  return size;
}

std::string to_nfc(std::string_view text) {
  if (std::all_of(text.begin(), text.end(),
                  [](char c) { return static_cast<unsigned char>(c) < 0x80; }))
    return std::string(text);
  std::vector<utf8proc_int32_t> codes = decomposed(text);
  sort_marks(codes);
  // Composing takes one pass. utf8proc_map() does all three steps, but it sorts by exchanging
  // neighbors, which takes a time that is quadratic in the length of a run of marks.
  const utf8proc_ssize_t size = utf8proc_normalize_utf32(
      codes.data(), static_cast<utf8proc_ssize_t>(codes.size()), compose_options);
  std::string composed;
  composed.reserve(text.size());
  std::array<utf8proc_uint8_t, max_character_size> bytes{};
  for (utf8proc_ssize_t n = 0; n < size; ++n) {
    const utf8proc_ssize_t count =
        utf8proc_encode_char(codes[static_cast<std::size_t>(n)], bytes.data());
    composed.append(reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(count));
  }
  return composed;
}

}  // namespace attn::model
