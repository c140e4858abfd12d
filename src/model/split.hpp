// How text is cut into the pieces within which tokens are merged.
#pragma once

#include <string_view>
#include <vector>

#include "model/regex.hpp"

namespace attn::model {

/// What becomes of the matches of a pattern. "a-b" cut at "-":
enum class SplitBehavior {
  removed,               // "a" "b"
  isolated,              // "a" "-" "b"
  merged_with_previous,  // "a-" "b"
  merged_with_next,      // "a" "-b"
  contiguous,            // as isolated, but neighboring matches are one piece
};

struct Split {
  Regex pattern;
  SplitBehavior behavior;
  bool invert = false;  // what lies between the matches counts as the matches

  /// The pieces of valid UTF-8, none of them empty.
  std::vector<std::string_view> operator()(std::string_view text) const;
};

/// The pieces that each of `splits` in turn leaves.
std::vector<std::string_view> split_all(const std::vector<Split>& splits, std::string_view text);

}  // namespace attn::model
