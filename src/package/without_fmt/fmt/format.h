// Takes the place of fmt in a build that may depend on nothing, such as the Python package: the
// part of fmt::format that the library uses, which is "{}" and, with numbered arguments, "{0}". It
// writes what fmt writes.
#pragma once

#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

namespace fmt {
namespace detail {

inline void append(std::string& text, std::string_view value) { text += value; }
inline void append(std::string& text, const char* value) { text += value; }
template <class Number>
requires(std::is_arithmetic_v<Number>) void append(std::string& text, Number value) {
  if constexpr (std::is_same_v<Number, bool>) {
    text += value ? "true" : "false";
  } else if constexpr (std::is_same_v<Number, char>) {
    text += value;
  } else {
    std::array<char, 32> digits;
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value);
    text.append(digits.data(), end.ptr);
  }
}
inline void append(std::string& text, const void* value) {
  std::array<char, 32> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(),
                                 reinterpret_cast<std::uintptr_t>(value), 16);
  text.append("0x").append(digits.data(), end.ptr);
}

/// One argument, which format() keeps alive.
struct Argument {
  const void* value;
  void (*append_to)(std::string& text, const void* value);
};
template <class Value>
Argument argument(const Value& value) {
  return {&value,
          [](std::string& text, const void* at) { append(text, *static_cast<const Value*>(at)); }};
}

}  // namespace detail

/// Text with each "{}" or "{n}" replaced by an argument, and "{{" and "}}" by one brace.
template <class... Values>
std::string format(std::string_view text, const Values&... values) {
  const std::array<detail::Argument, sizeof...(Values) + 1> arguments{detail::argument(values)...};
  std::string result;
  std::size_t next = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const bool brace = text[at] == '{' || text[at] == '}';
    if (!brace || (at + 1 < text.size() && text[at + 1] == text[at])) {
      result += text[at];
      at += brace ? 1 : 0;
      continue;
    }
    std::size_t number = next++;
    if (text[at + 1] != '}') number = static_cast<std::size_t>(text[++at] - '0');
    if (number < sizeof...(Values)) arguments[number].append_to(result, arguments[number].value);
    ++at;
  }
  return result;
}

}  // namespace fmt
