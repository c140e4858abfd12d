// The normalizer of a tokenizer.json: steps that change a text before it is split.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "model/bert_text.hpp"
#include "model/regex.hpp"

namespace attn::model {

/// Unicode's normal forms, and lower case.
enum class TextForm { nfc, nfd, lowercase };
/// Puts text before every text that is not empty.
struct Prepend {
  std::string text;
};
/// Puts text in the place of each match.
struct Replace {
  Regex pattern;
  std::string content;
};

class Normalizer {
 public:
  using Step = std::variant<TextForm, Prepend, Replace, BertNormalizer>;

  void add(Step step) { steps_.push_back(std::move(step)); }
  bool empty() const noexcept { return steps_.empty(); }
  /// The step of that kind; null if there is none.
  const BertNormalizer* bert() const noexcept;
  /// `text` has to be valid UTF-8. Throws as Regex::find_all does.
  std::string operator()(std::string_view text, MatchSteps& steps) const;

 private:
  std::vector<Step> steps_;
};

}  // namespace attn::model
