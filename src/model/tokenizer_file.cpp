#include "model/tokenizer_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "io/json.hpp"
#include "io/message.hpp"
#include "model/byte_level.hpp"
#include "model/unicode.hpp"

namespace attn::model {
namespace {

using io::in_quotes;
using io::JsonObject;
using nlohmann::json;

/// The largest vocabularies in use have some 260,000 tokens.
constexpr std::int64_t max_id = (1 << 20) - 1;
/// Each place of a text is compared with added tokens. The longest in use have some 100 bytes.
constexpr std::size_t max_added_size = 1000;
/// Limits of the steps in a list of them, and of the tokens on one side of a text.
constexpr std::size_t max_steps = 64, max_around = 64;

constexpr std::string_view gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// The model's tokens by their text. The views point into the parsed file.
using Vocabulary = std::unordered_map<std::string_view, TokenId>;

bool is_text(const JsonObject& object, std::string_view key, std::string_view text) {
  return object.has(key) && object.text(key) == text;
}

void set_piece(TokenizerFile& file, std::int64_t id, std::string bytes) {
  const auto index = static_cast<std::size_t>(id);
  if (index >= file.pieces.size()) file.pieces.resize(index + 1);
  file.pieces[index] = std::move(bytes);
}

Vocabulary read_vocabulary(const JsonObject& model, TokenizerFile& file) {
  const json& vocab = model.at("vocab");
  if (!vocab.is_object()) model.refuse("vocab", "an object of tokens and ids");
  Vocabulary vocabulary;
  vocabulary.reserve(vocab.size());
  file.pieces.reserve(vocab.size());
  for (const auto& [text, value] : vocab.items()) {
    if (text.empty()) model.fail("model.vocab holds a token without text");
    const std::optional<std::int64_t> number = io::whole_number(value, 0, max_id);
    if (!number) {
      const std::string got = value.is_primitive() ? value.dump() : "no number";
      model.fail(fmt::format("the id of token {} is {}; it needs to be a whole number in 0..{}",
                             in_quotes(text), in_quotes(got), max_id));
    }
    const auto id = static_cast<TokenId>(*number);
    if (file.names(id))
      model.fail(
          fmt::format("token {} has the id {}, which another token has too", in_quotes(text), id));
    const std::optional<std::string> bytes = spelled_bytes(text);
    set_piece(file, id, bytes.value_or(text));
    if (bytes && bytes->size() == 1) file.byte_ids[static_cast<unsigned char>(bytes->front())] = id;
    vocabulary.emplace(text, id);
  }
  if (vocabulary.empty()) model.fail("model.vocab is empty");
  return vocabulary;
}

/// The two sides of a merge, either ["a", "b"] or "a b".
std::pair<std::string, std::string> sides_of(const JsonObject& model, const json& merge,
                                             std::size_t number) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const std::size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos)
      return {text.substr(0, space), text.substr(space + 1)};
  }
  model.fail(fmt::format(R"(model.merges[{}] is no pair; it needs "a b" or ["a", "b"])", number));
}

void read_merges(const JsonObject& model, const Vocabulary& vocabulary, TokenizerFile& file) {
  const json& merges = model.at("merges");
  if (!merges.is_array()) model.refuse("merges", "a list of pairs");
  file.merges.reserve(merges.size());
  std::uint32_t number = 0;
  for (const json& merge : merges) {
    const std::uint32_t rank = number++;
    // A list that was made from GPT-2's merges.txt may still have the first line of that file.
    if (merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) continue;
    const std::pair<std::string, std::string> sides = sides_of(model, merge, rank);
    const auto& left = sides.first;  // lambdas of Clang 14 cannot capture structured bindings
    const auto& right = sides.second;
    const auto id_of = [&](const std::string& text) {
      const auto found = vocabulary.find(text);
      if (found == vocabulary.end()) {
        model.fail(fmt::format("model.merges[{}] is of {} and {}, but model.vocab lacks {}", rank,
                               in_quotes(left), in_quotes(right), in_quotes(text)));
      }
      return found->second;
    };
    const TokenId left_id = id_of(left), right_id = id_of(right);
    file.merges.add(left_id, right_id, rank, id_of(left + right));
  }
}

void read_unknown(const JsonObject& model, const Vocabulary& vocabulary, TokenizerFile& file) {
  file.fuse_unknown = model.has("fuse_unk") && model.flag("fuse_unk");
  if (!model.has("unk_token") || model.text("unk_token").empty()) return;
  const auto found = vocabulary.find(model.text("unk_token"));
  if (found == vocabulary.end()) model.refuse("unk_token", "a token of model.vocab");
  file.unknown = found->second;
}

/// Returns the model's tokens, whose texts are views into `model`.
Vocabulary read_model(const JsonObject& model, TokenizerFile& file) {
  // The file of GPT-2 has no type.
  if (model.has("type") && model.text("type") != "BPE") model.unsupported("type", "BPE");
  for (const char* const affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (model.has(affix) && !model.text(affix).empty()) model.unsupported(affix, "none");
  }
  if (model.has("dropout") && model.number("dropout", 0, 1) > 0)
    model.unsupported("dropout", "none");
  if (model.has("byte_fallback") && model.flag("byte_fallback"))
    model.unsupported("byte_fallback", "false");
  Vocabulary vocabulary = read_vocabulary(model, file);
  read_merges(model, vocabulary, file);
  read_unknown(model, vocabulary, file);
  if (model.has("ignore_merges") && model.flag("ignore_merges")) {
    for (const auto& [text, id] : vocabulary) {
      if (std::optional<std::string> bytes = spelled_bytes(text))
        file.whole_pieces.emplace(std::move(*bytes), id);
    }
  }
  return vocabulary;
}

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
    } else {
      after.push_back(token);
      if (file.nfc) after.back().text = to_nfc(token.text);
    }
  }
  file.added_before = AddedTokens(std::move(before));
  file.added_after = AddedTokens(std::move(after));
}

/// Appends the steps that `object` stands for: the object itself or, if it is a Sequence, the steps
/// in its list `list`.
void collect_steps(const JsonObject& object, std::string_view list,
                   std::vector<JsonObject>& steps) {
  if (object.text("type") != "Sequence") {
    if (steps.size() == max_steps) object.fail(fmt::format("has more than {} {}", max_steps, list));
    steps.push_back(object);
    return;
  }
  for (const JsonObject& inner : object.objects(list)) collect_steps(inner, list, steps);
}

std::vector<JsonObject> steps_of(const JsonObject& root, std::string_view key,
                                 std::string_view list) {
  std::vector<JsonObject> steps;
  if (root.has(key)) collect_steps(root.object(key), list, steps);
  return steps;
}

void read_normalizer(const JsonObject& root, TokenizerFile& file) {
  for (const JsonObject& step : steps_of(root, "normalizer", "normalizers")) {
    if (!is_text(step, "type", "NFC")) step.unsupported("type", "NFC or Sequence");
    file.nfc = true;
  }
}

SplitBehavior read_behavior(const JsonObject& step) {
  static constexpr std::pair<std::string_view, SplitBehavior> known[] = {
      {"Removed", SplitBehavior::removed},
      {"Isolated", SplitBehavior::isolated},
      {"MergedWithPrevious", SplitBehavior::merged_with_previous},
      {"MergedWithNext", SplitBehavior::merged_with_next},
      {"Contiguous", SplitBehavior::contiguous}};
  for (const auto& [name, behavior] : known) {
    if (is_text(step, "behavior", name)) return behavior;
  }
  step.refuse("behavior", "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

Split read_split(const JsonObject& step, const std::string& file) {
  const JsonObject pattern = step.object("pattern");
  const bool literal = pattern.has("String");
  const std::string& text = pattern.text(literal ? "String" : "Regex");
  return {Regex(file, text, literal ? PatternKind::literal : PatternKind::expression),
          read_behavior(step), step.has("invert") && step.flag("invert")};
}

void read_pre_tokenizer(const JsonObject& root, TokenizerFile& file) {
  const std::vector<JsonObject> steps = steps_of(root, "pre_tokenizer", "pretokenizers");
  if (steps.empty()) root.fail("lacks a pre_tokenizer; it needs one that ends with ByteLevel");
  for (const JsonObject& step : steps) {
    const bool is_last = &step == &steps.back();
    if (is_last != is_text(step, "type", "ByteLevel"))
      step.unsupported("type",
                       is_last ? "ByteLevel, as the last" : "Split or Digits before ByteLevel");
    if (is_last) {
      file.byte_level.add_prefix_space = step.flag("add_prefix_space");
      if (step.has("use_regex") && !step.flag("use_regex")) return;
      file.byte_level.split =
          Split{Regex(file.name, gpt2_pattern, PatternKind::expression), SplitBehavior::isolated};
    } else if (is_text(step, "type", "Split")) {
      file.splits.push_back(read_split(step, file.name));
    } else if (is_text(step, "type", "Digits")) {
      const bool individual = step.has("individual_digits") && step.flag("individual_digits");
      file.splits.push_back(
          {Regex::digits(), individual ? SplitBehavior::isolated : SplitBehavior::contiguous});
    } else {
      step.unsupported("type", "Split or Digits before ByteLevel");
    }
  }
}

void read_decoder(const JsonObject& root) {
  for (const JsonObject& step : steps_of(root, "decoder", "decoders")) {
    if (!is_text(step, "type", "ByteLevel")) step.unsupported("type", "ByteLevel");
  }
}

/// The ids that a template's special token stands for.
void append_special(const JsonObject& step, const std::string& name, const TokenizerFile& file,
                    std::vector<std::int64_t>& ids) {
  const JsonObject known = step.object("special_tokens").object(name);
  for (const std::int64_t id : known.integers("ids", 0, max_id)) {
    if (!file.names(id)) {
      known.fail(fmt::format("post_processor: special token {} stands for an id of no token",
                             in_quotes(name)));
    }
    if (ids.size() == max_around)
      known.fail(fmt::format("post_processor: more than {} tokens stand on one side of a text",
                             max_around));
    ids.push_back(id);
  }
}

void read_template(const JsonObject& step, TokenizerFile& file) {
  std::vector<std::int64_t> before, after;
  bool text_seen = false;
  for (const JsonObject& part : step.objects("single")) {
    if (part.has("SpecialToken")) {
      append_special(step, part.object("SpecialToken").text("id"), file,
                     text_seen ? after : before);
    } else if (part.object("Sequence").text("id") == "A" && !text_seen) {
      text_seen = true;
    } else {
      step.fail("post_processor: a template for a single text needs the text A once");
    }
  }
  if (!text_seen) step.fail("post_processor: a template for a single text lacks the text A");
  if (before.size() + file.before.size() > max_around ||
      after.size() + file.after.size() > max_around) {
    step.fail(
        fmt::format("post_processor: more than {} tokens stand on one side of a text", max_around));
  }
  file.before.insert(file.before.begin(), before.begin(), before.end());
  file.after.insert(file.after.end(), after.begin(), after.end());
}

void read_post_processor(const JsonObject& root, TokenizerFile& file) {
  for (const JsonObject& step : steps_of(root, "post_processor", "processors")) {
    if (is_text(step, "type", "TemplateProcessing")) {
      read_template(step, file);
    } else if (!is_text(step, "type", "ByteLevel")) {
      step.unsupported("type", "TemplateProcessing or ByteLevel");
    }
  }
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
  const JsonObject model = root.object("model");
  const Vocabulary vocabulary = read_model(model, file);
  read_added_tokens(root, vocabulary, file);
  read_normalizer(root, file);
  index_added_tokens(file);
  read_pre_tokenizer(root, file);
  read_decoder(root);
  read_post_processor(root, file);
  return file;
}

}  // namespace attn::model
