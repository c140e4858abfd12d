#include "model/added_tokens.hpp"

#include <algorithm>
#include <utility>

#include "model/unicode.hpp"
#include "model/unicode_properties.hpp"

namespace attn::model {
namespace {

std::size_t spaces_at_begin(std::string_view text) {
  std::size_t size = 0;
  for (Character next = first_character(text); is_space(next);
       next = first_character(text.substr(size)))
    size += next.size;
  return size;
}

std::size_t spaces_at_end(std::string_view text) {
  std::size_t size = 0;
  for (Character last = last_character(text); is_space(last);
       last = last_character(text.substr(0, text.size() - size)))
    size += last.size;
  return size;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::sort(tokens_.begin(), tokens_.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.text < b.text; });
  for (const AddedToken& token : tokens_)
    begins_[static_cast<unsigned char>(token.text.front())] = true;
}

// In the sorted list, the tokens that begin like the text are neighbors. What the first and the
// last of them have in common, all of them have; the byte of the text after it narrows their range.
const AddedToken* AddedTokens::longest_at(std::string_view text, bool match_special) const {
  const AddedToken* longest = nullptr;
  auto begin = tokens_.begin(), end = tokens_.end();
  for (std::size_t seen = 0; begin != end;) {
    const std::string_view first = begin->text, last = (end - 1)->text;
    const auto from = static_cast<std::ptrdiff_t>(seen);
    const auto differ =
        std::mismatch(first.begin() + from, first.end(), last.begin() + from, last.end()).first;
    const auto size = static_cast<std::size_t>(differ - first.begin());
    if (!text.substr(seen).starts_with(first.substr(seen, size - seen))) break;
    if (first.size() == size && (match_special || !begin->special)) longest = &*begin;
    if (text.size() == size) break;
    const auto byte = static_cast<unsigned char>(text[size]);
    const auto byte_of = [size](const AddedToken& token) {
      return static_cast<unsigned char>(token.text[size]);
    };
    begin = std::partition_point(begin, end, [&](const AddedToken& token) {
      return token.text.size() <= size || byte_of(token) < byte;
    });
    end = std::partition_point(begin, end,
                               [&](const AddedToken& token) { return byte_of(token) == byte; });
    seen = size;
  }
  return longest;
}

std::vector<AddedTokens::Part> AddedTokens::split(std::string_view text, bool match_special) const {
  std::vector<Part> parts;
  std::size_t begin = 0;  // everything before it is in a part
  for (std::size_t at = 0; at < text.size();) {
    const AddedToken* const token = begins_[static_cast<unsigned char>(text[at])]
                                        ? longest_at(text.substr(at), match_special)
                                        : nullptr;
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t token_begin = at;
    at += token->text.size();
    if (token->single_word && (is_word(last_character(text.substr(0, token_begin))) ||
                               is_word(first_character(text.substr(at)))))
      continue;
    if (token->takes_left) token_begin -= spaces_at_end(text.substr(begin, token_begin - begin));
    if (token->takes_right) at += spaces_at_begin(text.substr(at));
    if (token_begin > begin) parts.push_back({text.substr(begin, token_begin - begin)});
    parts.push_back({text.substr(token_begin, at - token_begin), token->id});
    begin = at;
  }
  if (begin < text.size()) parts.push_back({text.substr(begin)});
  return parts;
}

}  // namespace attn::model
