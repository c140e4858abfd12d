#include "model/unicode.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

namespace attn::model {
namespace {

constexpr std::size_t max_character_size = 4;

const utf8proc_uint8_t* bytes_of(std::string_view text) {
  return reinterpret_cast<const utf8proc_uint8_t*>(text.data());
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
  utf8proc_uint8_t* composed = nullptr;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  const utf8proc_ssize_t size =
      utf8proc_map(bytes_of(text), static_cast<utf8proc_ssize_t>(text.size()), &composed, options);
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(composed, &std::free);
  if (size < 0) throw std::bad_alloc();  // no other error is possible for valid text
  return {reinterpret_cast<const char*>(composed), static_cast<std::size_t>(size)};
}

}  // namespace attn::model
