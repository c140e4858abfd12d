// WordPiece (Wu et al. 2016, arXiv:1609.08144): the longest token at the beginning of a word, then
// the longest at the beginning of the rest, and so on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/merges.hpp"

namespace attn::model {

class WordPiece {
 public:
  /// Tokens that begin with `prefix` continue a word. Words of more than `max_characters`, and
  /// those that tokens do not make up, are `unknown`.
  WordPiece(std::string prefix, std::size_t max_characters, TokenId unknown)
      : prefix_(std::move(prefix)), max_characters_(max_characters), unknown_(unknown) {}

  void add(std::string_view text, TokenId id);
  /// The ids of a word, appended. The time is about linear in the length of the word times that of
  /// the longest token.
  void append(std::string_view word, std::vector<std::int64_t>& ids) const;

 private:
  using Table = std::unordered_map<std::string, TokenId>;

  std::string prefix_;
  std::size_t max_characters_;
  TokenId unknown_;
  Table beginning_, continuing_;  // without the prefix
  std::size_t longest_ = 0;       // bytes of a token
};

}  // namespace attn::model
