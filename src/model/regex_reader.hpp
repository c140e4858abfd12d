// The parts of a pattern's syntax that stand for characters: escapes, properties and classes.
#pragma once

#include <attn/error.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "model/code_set.hpp"

namespace attn::model {

/// A place in a pattern, and what is read there.
class PatternReader {
 public:
  explicit PatternReader(std::string_view text) : text_(text) {}

  bool at_end() const noexcept { return at_ == text_.size(); }
  /// The byte here, or `offset` bytes further; 0 at the end.
  char peek(std::size_t offset = 0) const noexcept {
    return at_ + offset < text_.size() ? text_[at_ + offset] : '\0';
  }
  std::string_view rest() const noexcept { return text_.substr(at_); }
  void skip(std::size_t size) noexcept { at_ += size; }
  /// Goes past `token` if it stands here.
  bool accept(std::string_view token);
  /// The text up to `end`, which is passed. `what` names it in the message if there is no `end`.
  std::string_view take_until(std::string_view end, const std::string& what);
  std::int32_t take_character();
  /// A number of at most six digits, or nothing if none is here.
  std::optional<std::size_t> take_number();

  /// After a backslash: the set of \d, \s, \w, \h, \p{...} and their negations, if it is one. \w
  /// and \p{Word} differ a little inside of a class.
  std::optional<CodeSet> take_set_escape(bool in_class);
  /// After a backslash: the character that any other escape stands for.
  std::int32_t take_character_escape();
  /// After "[": a class up to its "]".
  CodeSet take_class(bool ignore_case);

  [[noreturn]] void malformed(const std::string& what) const;
  [[noreturn]] void unsupported(const std::string& what) const;

 private:
  struct ClassItems;

  CodeSet take_property(bool in_class);
  std::int32_t take_hexadecimal(std::size_t min_digits, std::size_t max_digits);
  std::int32_t take_byte_escapes(std::int32_t first);
  std::int32_t checked(std::int32_t code) const;
  /// Returns the characters before a "^" at the beginning inverts them.
  CodeSet take_operands();
  void take_class_item(ClassItems& items);
  void take_hyphen(ClassItems& items);
  bool operand_ends() const noexcept;
  bool posix_bracket_here() const noexcept;
  CodeSet take_posix_bracket();

  std::string_view text_;
  std::size_t at_ = 0;
  int class_depth_ = 0;
};

}  // namespace attn::model
