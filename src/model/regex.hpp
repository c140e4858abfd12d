// Regular expressions of tokenizer.json, matched by PCRE2 with limits. No other file includes
// PCRE2.
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

/// \s, \d, \w and the cases of letters follow Unicode. The patterns were written for other engines;
/// the one difference is that \s of PCRE2 also matches U+180E, a space until Unicode 6.3.
class Regex {
 public:
  /// Throws Error(io), which names `file`, if the pattern is malformed or too large.
  Regex(const std::string& file, std::string_view pattern, PatternKind kind);

  /// All matches in valid UTF-8, from left to right, without overlap. Empty matches count, unless
  /// they begin where another match ends. Throws Error(io), which names the file, if the pattern
  /// takes too many steps.
  std::vector<Range> find_all(std::string_view text) const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
};

}  // namespace attn::model
