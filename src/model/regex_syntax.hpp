// Regular expressions of tokenizer.json as trees. Hugging Face's tokenizers matches them with
// Oniguruma, whose syntax is read here (https://github.com/kkos/oniguruma/blob/master/doc/RE):
// ^ and $ stand at every line, (?m) lets . match newlines, classes nest and intersect (&&), a +
// after an interval repeats it, and an option in the middle of a group holds for all that follows.
#pragma once

#include <attn/error.hpp>

#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "model/code_set.hpp"

namespace attn::model {

enum class Greed { greedy, lazy, possessive };

enum class Assertion {
  text_begin,     // \A
  text_end,       // \z
  last_line_end,  // \Z: the end, or before a newline there
  line_begin,     // ^
  line_end,       // $
  word_boundary,  // \b
  no_boundary,    // \B
  search_begin,   // \G
};

struct Pattern {
  enum class Kind {
    set,           // one character of `set`
    sequence,      // `parts`, one after another
    alternatives,  // one of `parts`
    repeat,        // `parts[0]`, `min` to `max` times
    capture,       // `parts[0]`, which a back reference to `group` repeats
    atomic,        // the first way in which `parts[0]` matches
    look,          // `parts[0]` matches here, or ends here if `behind`; or not, if `negative`
    assertion,
    keep,            // \K: the match begins here
    back_reference,  // what `group` matched last
  };
  static constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max();

  Kind kind = Kind::sequence;
  std::vector<Pattern> parts{};
  CodeSet set{};
  bool ignores_case = false;  // of a set that stands for one letter
  std::size_t min = 0, max = 0;
  Greed greed = Greed::greedy;
  Assertion assertion{};
  bool behind = false, negative = false;
  std::size_t group = 0;
};

/// A pattern that cannot be read. The code is `io` if it is malformed and `unsupported` if it uses
/// what is not supported; the message says what that is, and where.
class PatternError : public Error {
 public:
  using Error::Error;
};

/// Throws PatternError.
Pattern parse_pattern(std::string_view text);
/// The text itself, which has to be UTF-8.
Pattern literal_pattern(std::string_view text);

}  // namespace attn::model
