// Added tokens, such as "<|im_end|>": they are found in a text as they are spelled, before the text
// between them is split and merged.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace attn::model {

struct AddedToken {
  std::int64_t id;
  std::string text;
  bool special = false;
  bool takes_left = false;   // white space before it becomes a part of it
  bool takes_right = false;  // white space after it becomes a part of it
  bool single_word = false;  // it does not match inside a word
  bool normalized = false;   // it is looked for after the text's normalization, not before
};

class AddedTokens {
 public:
  AddedTokens() = default;
  explicit AddedTokens(std::vector<AddedToken> tokens);

  /// An added token with its id, or the text between two of them, which is not empty.
  struct Part {
    std::string_view text;
    std::optional<std::int64_t> id{};
  };
  /// Splits the text from left to right; where several tokens match, the longest one is taken.
  /// Special tokens count as text if `match_special` is false.
  std::vector<Part> split(std::string_view text, bool match_special) const;

 private:
  const AddedToken* longest_at(std::string_view text, bool match_special) const;

  std::vector<AddedToken> tokens_;  // sorted by their text
  std::array<bool, 256> begins_{};  // whether a token begins with this byte
};

}  // namespace attn::model
