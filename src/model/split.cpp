#include "model/split.hpp"

#include <algorithm>
#include <utility>

namespace attn::model {
namespace {

struct Piece {
  Range range;
  bool is_match;
};

/// The matches and the text between them, in the order of the text.
std::vector<Piece> cut(std::string_view text, const std::vector<Range>& matches, bool invert) {
  std::vector<Piece> pieces;
  std::size_t end = 0;
  for (const Range& match : matches) {
    if (match.begin > end) pieces.push_back({{end, match.begin}, invert});
    pieces.push_back({match, !invert});
    end = match.end;
  }
  if (end < text.size()) pieces.push_back({{end, text.size()}, invert});
  return pieces;
}

/// Whether `piece` is joined to the piece before it.
bool joins(SplitBehavior behavior, const Piece& before, const Piece& piece) {
  switch (behavior) {
    case SplitBehavior::merged_with_previous: return piece.is_match && !before.is_match;
    case SplitBehavior::merged_with_next: return before.is_match && !piece.is_match;
    case SplitBehavior::contiguous: return before.is_match == piece.is_match;
    default: return false;
  }
}

}  // namespace

std::vector<std::string_view> Split::operator()(std::string_view text, MatchSteps& steps) const {
  const std::vector<Piece> pieces = cut(text, pattern.find_all(text, steps), invert);
  std::vector<std::string_view> words;
  for (std::size_t n = 0; n < pieces.size(); ++n) {
    Range range = pieces[n].range;
    if (behavior == SplitBehavior::removed && pieces[n].is_match) continue;
    while (n + 1 < pieces.size() && joins(behavior, pieces[n], pieces[n + 1]))
      range.end = pieces[++n].range.end;
    if (range.end > range.begin) words.push_back(text.substr(range.begin, range.end - range.begin));
  }
  return words;
}

std::vector<std::string_view> split_all(const std::vector<Split>& splits, std::string_view text,
                                        MatchSteps& steps) {
  std::vector<std::string_view> pieces{text};
  for (const Split& split : splits) {
    std::vector<std::string_view> finer;
    for (const std::string_view piece : pieces) {
      const std::vector<std::string_view> words = split(piece, steps);
      finer.insert(finer.end(), words.begin(), words.end());
    }
    pieces = std::move(finer);
  }
  return pieces;
}

}  // namespace attn::model
