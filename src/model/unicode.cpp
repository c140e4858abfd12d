#include "model/unicode.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "model/regex_program.hpp"
#include "model/unicode_properties.hpp"

namespace attn::model {
namespace {

constexpr std::size_t max_character_size = 4;

const utf8proc_uint8_t* bytes_of(std::string_view text) {
  return reinterpret_cast<const utf8proc_uint8_t*>(text.data());
}

constexpr auto compose_options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);

/// Hugging Face's tokenizers normalizes as of Unicode 9.0. To it, later characters are unassigned:
/// they do not decompose, compose or move.
bool is_inert(std::int32_t code) {
  constexpr std::int32_t first_later = 0x560;
  static const SetTable later(later_than_unicode_9());
  return code >= first_later && later.contains(code);
}

void append_decomposed(std::int32_t code, std::vector<utf8proc_int32_t>& codes) {
  constexpr std::size_t longest = 4;  // that any canonical decomposition is
  std::array<utf8proc_int32_t, longest> parts{};
  const utf8proc_ssize_t size =
      utf8proc_decompose_char(code, parts.data(), longest, compose_options, nullptr);
  codes.insert(codes.end(), parts.begin(), parts.begin() + size);
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
    const auto is_before = [&](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining_class(a) < combining_class(b);
    };
    if (!std::is_sorted(begin, end, is_before)) std::stable_sort(begin, end, is_before);
  }
}

enum class Form { composed, decomposed };

/// Appends the form of decomposed characters, which are left empty.
///
/// utf8proc_map() does all steps, but it sorts by exchanging neighbors, which takes a time that is
/// quadratic in the length of a run of marks. Composing takes one pass.
void append_normalized(std::vector<utf8proc_int32_t>& codes, Form form, std::string& normalized) {
  if (codes.empty()) return;
  sort_marks(codes);
  auto size = static_cast<utf8proc_ssize_t>(codes.size());
  if (form == Form::composed) size = utf8proc_normalize_utf32(codes.data(), size, compose_options);
  for (utf8proc_ssize_t n = 0; n < size; ++n)
    append_character(codes[static_cast<std::size_t>(n)], normalized);
  codes.clear();
}

/// The number of bytes at the beginning that are ASCII, and followed by ASCII or by nothing.
std::size_t size_without_marks(std::string_view text) {
  const auto* const other = std::find_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x80; });
  const auto size = static_cast<std::size_t>(other - text.begin());
  return other == text.end() || size == 0 ? size : size - 1;
}

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

std::string to_form(std::string_view text, Form form) {
  std::string normalized;
  normalized.reserve(text.size());
  std::vector<utf8proc_int32_t> codes;
  while (!text.empty()) {
    std::size_t unchanged = size_without_marks(text);
    const Character character = unchanged == 0 ? first_character(text) : Character{};
    if (unchanged == 0 && is_inert(character.code)) unchanged = character.size;
    if (unchanged > 0) {
      append_normalized(codes, form, normalized);
      normalized += text.substr(0, unchanged);
    } else {
      append_decomposed(character.code, codes);
    }
    text.remove_prefix(std::max(unchanged, character.size));
  }
  append_normalized(codes, form, normalized);
  return normalized;
}

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

std::string to_nfc(std::string_view text) { return to_form(text, Form::composed); }
std::string to_nfd(std::string_view text) { return to_form(text, Form::decomposed); }

void append_character(std::int32_t code, std::string& text) {
  std::array<utf8proc_uint8_t, max_character_size> bytes{};
  const utf8proc_ssize_t count = utf8proc_encode_char(code, bytes.data());
  text.append(reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(count));
}

}  // namespace attn::model
