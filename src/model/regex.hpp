// Regular expressions of tokenizer.json: Oniguruma's syntax (regex_syntax.hpp), matched by
// backtracking with a limit of steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/code_set.hpp"

namespace attn::model {

/// A part of a text, in bytes.
struct Range {
  std::size_t begin, end;
};

enum class PatternKind { literal, expression };

/// The steps that all patterns together may take on a text. A step is about a character that is
/// compared, or a choice. A pattern that is fit for its purpose takes a few for each byte. The
/// first ones, about a tenth of a second, let a small text take a time that is quadratic in its
/// size.
class MatchSteps {
 public:
  explicit MatchSteps(std::size_t text_size) : text_size_(text_size) {}

  std::size_t text_size() const noexcept { return text_size_; }
  /// Adds the steps for a pattern that is to be matched on `size` bytes.
  void add_for(std::size_t size) noexcept { left_ += per_byte * size; }
  /// False if there are not so many left.
  bool take(std::uint64_t count) noexcept {
    if (count > left_) return false;
    left_ -= count;
    return true;
  }

 private:
  static constexpr std::uint64_t at_first = std::uint64_t{1} << 25, per_byte = 64;

  std::size_t text_size_;
  std::uint64_t left_ = at_first;
};

class Regex {
 public:
  /// Throws Error, which names `file`: `io` if the pattern is malformed or too large, and
  /// `unsupported` if it uses what is not supported.
  Regex(const std::string& file, std::string_view pattern, PatternKind kind);
  /// Matches one character of a set.
  static Regex one_of(CodeSet set);
  /// Matches numbers, as pre_tokenizers.Digits does.
  static Regex digits();

  /// All matches in valid UTF-8, from left to right, without overlap. Empty matches count, unless
  /// they begin where another match ends. Throws Error(io), which names the file, if the pattern
  /// takes more steps than are left.
  std::vector<Range> find_all(std::string_view text, MatchSteps& steps) const;

 private:
  struct Code;
  Regex() = default;
  std::shared_ptr<const Code> code_;
};

}  // namespace attn::model
