// Regular expressions of tokenizer.json, with limits. Nothing else includes PCRE2's header.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace attn::model {

/// A part of a text, in bytes.
struct Range {
  std::size_t begin, end;
};

enum class PatternKind { literal, expression };

/// Unicode's properties hold for \s, \d, \w and letters' cases. The patterns were written for other
/// engines than PCRE2; \s is one character wider here, U+180E, which was a space until Unicode 6.3.
class Regex {
 public:
  /// Throws Error(io), naming `file`, for a pattern that is none or too large.
  Regex(const std::string& file, std::string_view pattern, PatternKind kind);

  /// All matches in valid UTF-8, from the left, none overlapping. Empty matches count, but not
  /// right after another. Throws Error(io), naming the file, if one takes more steps than any sound
  /// pattern.
  std::vector<Range> find_all(std::string_view text) const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
};

}  // namespace attn::model
