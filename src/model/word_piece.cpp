#include "model/word_piece.hpp"

#include <algorithm>

namespace attn::model {
namespace {

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

std::size_t characters_of(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return !is_continuation(c); }));
}

}  // namespace

void WordPiece::add(std::string_view text, TokenId id) {
  // A token with the prefix can also be the beginning of a word that is spelled like that.
  beginning_.emplace(text, id);
  if (text.starts_with(prefix_)) continuing_.emplace(text.substr(prefix_.size()), id);
  longest_ = std::max(longest_, text.size());
}

void WordPiece::append(std::string_view word, std::vector<std::int64_t>& ids) const {
  if (characters_of(word) > max_characters_) return ids.push_back(unknown_);
  const std::size_t before = ids.size();
  for (std::size_t begin = 0; begin < word.size();) {
    const Table& table = begin == 0 ? beginning_ : continuing_;
    std::size_t end = begin + std::min(word.size() - begin, longest_);
    auto found = table.end();
    for (; end > begin; --end) {
      if (end < word.size() && is_continuation(word[end])) continue;
      found = table.find(std::string(word.substr(begin, end - begin)));
      if (found != table.end()) break;
    }
    if (found == table.end()) {
      ids.resize(before);
      return ids.push_back(unknown_);
    }
    ids.push_back(found->second);
    begin = end;
  }
}

}  // namespace attn::model
