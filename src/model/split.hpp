// Splits text into pieces. Tokens are merged only inside a piece.
#pragma once

#include <string_view>
#include <vector>

#include "model/regex.hpp"

namespace attn::model {

/// What happens to the matches of a pattern. If "a-b" is split at "-", the pieces are:
enum class SplitBehavior {
  removed,               // "a" "b"
  isolated,              // "a" "-" "b"
  merged_with_previous,  // "a-" "b"
  merged_with_next,      // "a" "-b"
  contiguous,            // like isolated, but matches that touch become one piece
};

struct Split {
  Regex pattern;
  SplitBehavior behavior;
  bool invert = false;  // swap the roles of matches and of the text between them

  /// The pieces of valid UTF-8, none of them empty. Throws as Regex::find_all does.
  std::vector<std::string_view> operator()(std::string_view text, MatchSteps& steps) const;
};

/// Applies the splits one after another, each to the pieces of the one before.
std::vector<std::string_view> split_all(const std::vector<Split>& splits, std::string_view text,
                                        MatchSteps& steps);

}  // namespace attn::model
