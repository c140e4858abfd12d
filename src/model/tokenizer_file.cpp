#include "model/tokenizer_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "io/json.hpp"
#include "io/message.hpp"
#include "model/tokenizer_model.hpp"
#include "model/tokenizer_steps.hpp"

namespace attn::model {
namespace {

using io::in_quotes;
using io::JsonObject;

/// Each place of a text is compared with added tokens. The longest in use have some 100 bytes.
constexpr std::size_t max_added_size = 1000;

AddedToken read_added_token(const JsonObject& object) {
  const auto flag = [&](std::string_view key, bool missing) {
    return object.has(key) ? object.flag(key) : missing;
  };
  AddedToken token{.id = object.integer("id", 0, max_id), .text = object.text("content")};
  if (token.text.empty()) object.refuse("content", "some text");
  if (token.text.size() > max_added_size)
    object.fail(fmt::format("an added token has {} bytes; at most {} are read", token.text.size(),
                            max_added_size));
  token.special = flag("special", false);
  token.takes_left = flag("lstrip", false);
  token.takes_right = flag("rstrip", false);
  token.single_word = flag("single_word", false);
  token.normalized = flag("normalized", !token.special);
  return token;
}

void read_added_tokens(const JsonObject& root, const Vocabulary& vocabulary, TokenizerFile& file) {
  std::unordered_map<std::string, std::int64_t> seen;
  for (const JsonObject& object : root.objects("added_tokens")) {
    AddedToken token = read_added_token(object);
    const std::string name = in_quotes(token.text);
    if (!seen.emplace(token.text, token.id).second)
      root.fail(fmt::format("added token {} stands twice", name));
    const auto known = vocabulary.find(token.text);
    if (known != vocabulary.end() && known->second != token.id) {
      root.fail(fmt::format("added token {} has the id {}, but {} in model.vocab", name, token.id,
                            known->second));
    }
    if (known == vocabulary.end() && file.names(token.id)) {
      root.fail(
          fmt::format("added token {} has the id {}, which another token has too", name, token.id));
    }
    set_piece(file, token.id, token.text);
    file.added.push_back(std::move(token));
  }
  file.special.resize(file.pieces.size());
  for (const AddedToken& token : file.added)
    file.special[static_cast<std::size_t>(token.id)] = token.special;
}

void index_added_tokens(TokenizerFile& file) {
  std::vector<AddedToken> before, after;
  for (const AddedToken& token : file.added) {
    if (!token.normalized) {
      before.push_back(token);
      continue;
    }
    after.push_back(token);
    MatchSteps steps(token.text.size());
    after.back().text = file.normalizer(token.text, steps);
    if (after.back().text.empty()) after.pop_back();  // it is found nowhere
  }
  file.added_before = AddedTokens(std::move(before));
  file.added_after = AddedTokens(std::move(after));
}

}  // namespace

std::optional<std::int64_t> TokenizerFile::find(std::string_view text) const {
  for (const AddedToken& token : added) {
    if (token.text == text) return token.id;
  }
  const auto found = std::find(pieces.begin(), pieces.end(), text);
  return found == pieces.end() ? std::nullopt : std::optional(found - pieces.begin());
}

TokenizerFile read_tokenizer_file(const std::filesystem::path& path) {
  TokenizerFile file;
  file.name = path.string();
  const JsonObject root(path);
  if (root.has("version") && root.at("version") != "1.0") root.unsupported("version", "\"1.0\"");
  const JsonObject model = root.object("model");
  read_pre_tokenizer(root, file);
  const Vocabulary vocabulary = read_model(model, file);
  read_decoder(root, file);
  read_added_tokens(root, vocabulary, file);
  read_normalizer(root, file);
  index_added_tokens(file);
  read_post_processor(root, file);
  return file;
}

}  // namespace attn::model
