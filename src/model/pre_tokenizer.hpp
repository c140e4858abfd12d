// The pre_tokenizer of a tokenizer.json: it splits a text into pieces, each of which becomes tokens
// by itself.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "model/split.hpp"

namespace attn::model {

/// Spaces become `replacement`, which is put before a piece, too, and a piece may be split before
/// each of them.
struct Metaspace {
  enum class Scheme { always, first, never };
  std::string replacement;
  Scheme prepend = Scheme::always;  // first: only where a text begins
  bool split = true;
  Split at_replacement;
};

class PreTokenizer {
 public:
  using Step = std::variant<Split, Metaspace>;

  void add(Step step) { steps_.push_back(std::move(step)); }
  /// Calls f(piece) for each piece of valid UTF-8. `at_begin` says whether the text stands where
  /// the whole text begins. Throws as Regex::find_all does.
  template <class F>
  void for_each_piece(std::string_view text, bool at_begin, MatchSteps& steps, F&& f) const {
    std::deque<std::string> made;  // what pieces that are no parts of the text are views of
    for (const std::string_view piece : pieces(text, at_begin, steps, made)) f(piece);
  }

 private:
  std::vector<std::string_view> pieces(std::string_view text, bool at_begin, MatchSteps& steps,
                                       std::deque<std::string>& made) const;

  std::vector<Step> steps_;
};

}  // namespace attn::model
