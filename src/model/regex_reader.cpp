#include "model/regex_reader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "io/message.hpp"
#include "model/regex_syntax.hpp"
#include "model/unicode.hpp"
#include "model/unicode_properties.hpp"

namespace attn::model {
namespace {

using io::in_quotes;

constexpr int max_class_depth = 100;

std::optional<std::int32_t> digit_of(char c, std::int32_t base) {
  std::int32_t value = base;
  if (c >= '0' && c <= '9') value = c - '0';
  if (c >= 'a' && c <= 'f') value = c - 'a' + 10;
  if (c >= 'A' && c <= 'F') value = c - 'A' + 10;
  return value < base ? std::optional(value) : std::nullopt;
}

}  // namespace

void PatternReader::malformed(const std::string& what) const {
  throw PatternError(ErrorCode::io,
                     fmt::format("is no regular expression: {} at its byte {}", what, at_));
}

void PatternReader::unsupported(const std::string& what) const {
  throw PatternError(ErrorCode::unsupported,
                     fmt::format("has {} before its byte {}, which is not supported", what, at_));
}

bool PatternReader::accept(std::string_view token) {
  if (!rest().starts_with(token)) return false;
  skip(token.size());
  return true;
}

std::string_view PatternReader::take_until(std::string_view end, const std::string& what) {
  const std::size_t size = rest().find(end);
  if (size == std::string_view::npos) malformed(fmt::format("{} has no {}", what, in_quotes(end)));
  const std::string_view found = rest().substr(0, size);
  skip(size + end.size());
  return found;
}

std::int32_t PatternReader::take_character() {
  const Character character = first_character(rest());
  if (character.size == 0) malformed("bytes that are no character");
  skip(character.size);
  return character.code;
}

std::optional<std::size_t> PatternReader::take_number() {
  constexpr std::size_t max_digits = 6;
  std::size_t number = 0, digits = 0;
  while (digit_of(peek(), 10)) {
    if (++digits > max_digits) malformed("too large a number");
    number = number * 10 + static_cast<std::size_t>(*digit_of(peek(), 10));
    skip(1);
  }
  return digits > 0 ? std::optional(number) : std::nullopt;
}

std::optional<CodeSet> PatternReader::take_set_escape(bool in_class) {
  const char letter = peek();
  CodeSet set;
  switch (letter) {
    case 'd':
    case 'D': set = *property_named("digit"); break;
    case 's':
    case 'S': set = *property_named("space"); break;
    case 'h':
    case 'H': set = *property_named("xdigit"); break;
    case 'w':
    case 'W': set = in_class ? word_characters() : word_characters_alone(); break;
    case 'p':
    case 'P':
      if (peek(1) != '{') return std::nullopt;
      return take_property(in_class);
    default: return std::nullopt;
  }
  skip(1);
  return letter >= 'a' ? set : ~set;
}

CodeSet PatternReader::take_property(bool in_class) {
  bool negative = peek() == 'P';
  skip(2);
  if (accept("^")) negative = !negative;
  const std::string_view name = take_until("}", "a property");
  const std::optional<CodeSet> found = property_named(name);
  if (!found) unsupported(fmt::format("the property {}", in_quotes(name)));
  const CodeSet& set = !in_class && *found == word_characters() ? word_characters_alone() : *found;
  return negative ? ~set : set;
}

std::int32_t PatternReader::checked(std::int32_t code) const {
  if (code < 0 || code > CodeSet::max_code || (code >= 0xd800 && code <= 0xdfff))
    malformed("the number of no character");
  return code;
}

std::int32_t PatternReader::take_hexadecimal(std::size_t min_digits, std::size_t max_digits) {
  std::int32_t code = 0;
  std::size_t digits = 0;
  for (; digits < max_digits && digit_of(peek(), 16); ++digits, skip(1)) {
    code = code * 16 + *digit_of(peek(), 16);
    if (code > CodeSet::max_code) malformed("the number of no character");
  }
  if (digits < min_digits) malformed("too few hexadecimal digits");
  return code;
}

/// \xE3\x81\x82 are the bytes of one character.
std::int32_t PatternReader::take_byte_escapes(std::int32_t first) {
  std::string bytes(1, static_cast<char>(first));
  while (first_character(bytes).size == 0) {
    if (bytes.size() == 4 || !accept("\\x")) malformed("bytes that are no character");
    bytes += static_cast<char>(take_hexadecimal(2, 2));
  }
  return first_character(bytes).code;
}

std::int32_t PatternReader::take_character_escape() {
  if (at_end()) malformed("a backslash");
  constexpr std::pair<char, char> controls[] = {{'t', '\t'}, {'n', '\n'}, {'r', '\r'}, {'f', '\f'},
                                                {'v', '\v'}, {'a', '\a'}, {'e', 0x1b}};
  for (const auto& [letter, code] : controls) {
    if (peek() == letter) {
      skip(1);
      return code;
    }
  }
  const auto in_braces = [&](std::int32_t base) {
    std::int32_t code = 0;
    for (; digit_of(peek(), base) && code <= CodeSet::max_code; skip(1))
      code = code * base + *digit_of(peek(), base);
    if (!accept("}")) unsupported("an escape of several characters");
    return checked(code);
  };
  if (accept("x{")) return in_braces(16);
  if (accept("o{")) return in_braces(8);
  if (accept("x")) {
    const std::int32_t code = take_hexadecimal(1, 2);
    return code < 0x80 ? code : take_byte_escapes(code);
  }
  if (accept("u")) return checked(take_hexadecimal(4, 4));
  if (peek() >= '0' && peek() <= '7') {
    std::int32_t code = 0;
    for (int digits = 0; digits < 3 && digit_of(peek(), 8); ++digits, skip(1))
      code = code * 8 + *digit_of(peek(), 8);
    if (code >= 0x80) unsupported("an octal number of more than a byte's 7 bits");
    return code;
  }
  if (peek() == 'c' || peek() == 'C' || peek() == 'M') {
    skip(1);
    unsupported("a control or meta escape");
  }
  return take_character();
}

/// What one operand of && holds so far.
struct PatternReader::ClassItems {
  enum class Last { none, character, set, range, hyphen };

  std::vector<CodeRange> ranges;
  Last last = Last::none;
  std::int32_t character = 0;  // the last one, which may begin a range

  void add(const CodeSet& set) {
    ranges.insert(ranges.end(), set.ranges().begin(), set.ranges().end());
  }
};

CodeSet PatternReader::take_class(bool ignore_case) {
  if (++class_depth_ > max_class_depth) malformed("too many nested classes");
  const bool negative = accept("^");
  if (peek() == ']') {
    // A "]" that comes first is a character if another one can end the class.
    if (rest().substr(1).find(']') == std::string_view::npos) malformed("an empty class");
  }
  CodeSet set = take_operands();
  --class_depth_;
  if (ignore_case && !negative) {
    if (const std::optional<std::int32_t> code = long_fold_in(set)) {
      unsupported(
          fmt::format("a class under (?i) with U+{:04X}, which several characters match", *code));
    }
  }
  if (ignore_case) set = with_other_cases(set);
  return negative ? ~set : set;
}

CodeSet PatternReader::take_operands() {
  std::optional<CodeSet> all;
  ClassItems items;
  const auto end_operand = [&] {
    const CodeSet operand = CodeSet::union_of(std::move(items.ranges));
    all = all ? *all & operand : operand;
    items = {};
  };
  for (bool first = true;; first = false) {
    if (at_end()) malformed("a class has no ]");
    if (!first && accept("]")) break;
    if (accept("&&")) {
      end_operand();
    } else {
      take_class_item(items);
    }
  }
  end_operand();
  return std::move(*all);
}

bool PatternReader::operand_ends() const noexcept {
  return peek() == ']' || rest().starts_with("&&");
}

void PatternReader::take_class_item(ClassItems& items) {
  using Last = ClassItems::Last;
  std::optional<CodeSet> set;
  std::int32_t code = 0;
  if (peek() == '-' && items.last != Last::none && items.last != Last::hyphen)
    return take_hyphen(items);
  if (posix_bracket_here()) {
    set = take_posix_bracket();
  } else if (peek() == '[') {
    skip(1);
    if (items.last == Last::hyphen) unsupported("a class at the end of a range");
    items.add(take_class(false));
    items.last = Last::range;
    return;
  } else if (accept("\\")) {
    set = take_set_escape(true);
    if (!set) code = accept("b") ? '\b' : take_character_escape();
  } else {
    code = take_character();
  }
  if (set) {
    if (items.last == Last::hyphen) malformed("a set at the end of a range");
    items.add(*set);
    items.last = Last::set;
  } else if (items.last == Last::hyphen) {
    if (code < items.character) malformed("an empty range");
    items.ranges.push_back({items.character, code});
    items.last = Last::range;
  } else {
    items.ranges.push_back({code, code});
    items.character = code;
    items.last = Last::character;
  }
}

/// A "-" that does not come first: the hyphen of a range, or a character.
void PatternReader::take_hyphen(ClassItems& items) {
  using Last = ClassItems::Last;
  skip(1);
  if (items.last == Last::character && !operand_ends()) {
    items.last = Last::hyphen;
    return;
  }
  if (items.last == Last::set && !operand_ends()) malformed("a range that begins with a set");
  items.ranges.push_back({'-', '-'});
  items.character = '-';
  items.last = Last::character;
}

/// "[:", letters, perhaps after "^", and ":]".
bool PatternReader::posix_bracket_here() const noexcept {
  if (!rest().starts_with("[:")) return false;
  const std::string_view name = rest().substr(2);
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const auto* const end =
      std::find_if_not(name.begin() + (name.starts_with('^') ? 1 : 0), name.end(), is_letter);
  return name.substr(static_cast<std::size_t>(end - name.begin())).starts_with(":]");
}

CodeSet PatternReader::take_posix_bracket() {
  skip(2);
  const bool negative = accept("^");
  const std::string_view name = take_until(":]", "a POSIX bracket");
  const std::optional<CodeSet> set = posix_bracket_named(name);
  if (!set) malformed(fmt::format("the POSIX bracket {}", in_quotes(name)));
  return negative ? ~*set : *set;
}

}  // namespace attn::model
