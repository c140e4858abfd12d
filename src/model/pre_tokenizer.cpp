#include "model/pre_tokenizer.hpp"

#include <algorithm>
#include <utility>

namespace attn::model {
namespace {

/// A piece, and whether it stands where the whole text begins.
struct Piece {
  std::string_view text;
  bool at_begin;
};

std::string with_replacement(const Metaspace& step, const Piece& piece) {
  std::string text;
  for (const char c : piece.text) {
    if (c == ' ') {
      text += step.replacement;
    } else {
      text += c;
    }
  }
  const bool may = step.prepend == Metaspace::Scheme::always ||
                   (step.prepend == Metaspace::Scheme::first && piece.at_begin);
  return may && !text.starts_with(step.replacement) ? step.replacement + text : text;
}

/// Appends the pieces of one piece.
struct SplitPiece {
  const Piece& piece;
  MatchSteps& steps;
  std::deque<std::string>& made;
  std::vector<Piece>& finer;

  void operator()(const Split& split) const { append(split(piece.text, steps)); }
  void operator()(const Metaspace& metaspace) const {
    const std::string& text = made.emplace_back(with_replacement(metaspace, piece));
    if (metaspace.split) return append(metaspace.at_replacement(text, steps));
    finer.push_back({text, piece.at_begin});
  }
  void append(const std::vector<std::string_view>& words) const {
    bool at_begin = piece.at_begin;
    for (const std::string_view word : words) {
      finer.push_back({word, at_begin});
      at_begin = false;
    }
  }
};

}  // namespace

std::vector<std::string_view> PreTokenizer::pieces(std::string_view text, bool at_begin,
                                                   MatchSteps& steps,
                                                   std::deque<std::string>& made) const {
  std::vector<Piece> pieces{{text, at_begin}};
  for (const Step& step : steps_) {
    std::vector<Piece> finer;
    for (const Piece& piece : pieces) std::visit(SplitPiece{piece, steps, made, finer}, step);
    pieces = std::move(finer);
  }
  std::vector<std::string_view> texts;
  texts.reserve(pieces.size());
  for (const Piece& piece : pieces) texts.push_back(piece.text);
  return texts;
}

}  // namespace attn::model
