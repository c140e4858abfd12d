// Tokens that stand in a text as they are, and are found before anything else is done to it.
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
  bool takes_left = false, takes_right = false;  // white space before and after it belongs to it
  bool single_word = false;                      // not inside a word
  bool normalized = false;                       // found after the text's normalization, not before
};

class AddedTokens {
 public:
  AddedTokens() = default;
  explicit AddedTokens(std::vector<AddedToken> tokens);

  /// A token, or text between tokens, which is not empty.
  struct Part {
    std::string_view text;
    std::optional<std::int64_t> id{};
  };
  /// The text from the left, at each place the longest token.
  std::vector<Part> split(std::string_view text, bool match_special) const;

 private:
  const AddedToken* longest_at(std::string_view text, bool match_special) const;

  std::vector<AddedToken> tokens_;  // sorted by their text
  std::array<bool, 256> begins_{};  // whether a token begins with this byte
};

}  // namespace attn::model
