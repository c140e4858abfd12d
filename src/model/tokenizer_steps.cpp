#include "model/tokenizer_steps.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "io/message.hpp"
#include "model/tokenizer_model.hpp"
#include "model/unicode.hpp"

namespace attn::model {

using io::in_quotes;
using io::JsonObject;

namespace {

/// Limits of the steps in a list of them, and of the tokens on one side of a text.
constexpr std::size_t max_steps = 64, max_around = 64;

constexpr std::string_view gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

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

/// The pattern that a step looks for, a text or an expression.
Regex read_pattern(const JsonObject& step, const std::string& file) {
  const JsonObject pattern = step.object("pattern");
  const bool literal = pattern.has("String");
  const std::string& text = pattern.text(literal ? "String" : "Regex");
  return {file, text, literal ? PatternKind::literal : PatternKind::expression};
}

/// Null means that accents go where capitals go.
BertNormalizer read_bert_normalizer(const JsonObject& step) {
  BertNormalizer bert{.clean_text = step.flag_or("clean_text", true),
                      .handle_chinese_chars = step.flag_or("handle_chinese_chars", true),
                      .lowercase = step.flag_or("lowercase", true)};
  bert.strip_accents = step.flag_or("strip_accents", bert.lowercase);
  return bert;
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
  return {read_pattern(step, file), read_behavior(step), step.has("invert") && step.flag("invert")};
}

/// The one character that a Metaspace puts in the place of a space.
std::string read_replacement(const JsonObject& step) {
  const std::string& text = step.text("replacement");
  if (text.empty() || first_character(text).size != text.size())
    step.refuse("replacement", "one character");
  return text;
}

Metaspace::Scheme read_scheme(const JsonObject& step) {
  // Older files say whether a space is added, newer ones also where.
  if (step.has("prepend_scheme")) {
    if (is_text(step, "prepend_scheme", "first")) return Metaspace::Scheme::first;
    if (is_text(step, "prepend_scheme", "never")) return Metaspace::Scheme::never;
    if (!is_text(step, "prepend_scheme", "always"))
      step.refuse("prepend_scheme", "always, first or never");
    return Metaspace::Scheme::always;
  }
  return step.flag_or("add_prefix_space", true) ? Metaspace::Scheme::always
                                                : Metaspace::Scheme::never;
}

Metaspace read_metaspace(const JsonObject& step, const std::string& file) {
  std::string replacement = read_replacement(step);
  Split split{Regex(file, replacement, PatternKind::literal), SplitBehavior::merged_with_next};
  return {.replacement = std::move(replacement),
          .prepend = read_scheme(step),
          .split = step.flag_or("split", true),
          .at_replacement = std::move(split)};
}

void read_byte_level(const JsonObject& step, TokenizerFile& file) {
  file.byte_level.emplace();
  file.byte_level->add_prefix_space = step.flag("add_prefix_space");
  if (step.has("use_regex") && !step.flag("use_regex")) return;
  file.byte_level->split =
      Split{Regex(file.name, gpt2_pattern, PatternKind::expression), SplitBehavior::isolated};
}

void add_pre_tokenizer(const JsonObject& step, TokenizerFile& file) {
  PreTokenizer& steps = file.pre_tokenizer;
  if (is_text(step, "type", "Split")) return steps.add(read_split(step, file.name));
  if (is_text(step, "type", "Metaspace")) return steps.add(read_metaspace(step, file.name));
  if (is_text(step, "type", "Digits")) {
    const bool individual = step.has("individual_digits") && step.flag("individual_digits");
    return steps.add(
        Split{Regex::digits(), individual ? SplitBehavior::isolated : SplitBehavior::contiguous});
  }
  const bool bert = is_text(step, "type", "BertPreTokenizer");
  if (!bert && !is_text(step, "type", "WhitespaceSplit")) {
    step.unsupported("type",
                     "Split, Digits, Metaspace, BertPreTokenizer, WhitespaceSplit or, as the last, "
                     "ByteLevel");
  }
  steps.add(Split{Regex::one_of(bert_separators()), SplitBehavior::removed});
  if (bert) steps.add(Split{Regex::one_of(bert_punctuation()), SplitBehavior::isolated});
}

/// Replaces every occurrence of a text.
std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != text.npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
  return text;
}

/// What the decoder WordPiece, with `cleanup`, makes of the spaces of English.
std::string cleaned_up(std::string text) {
  static constexpr std::pair<std::string_view, std::string_view> replacements[] = {
      {" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
      {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
      {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [from, to] : replacements) text = replaced(std::move(text), from, to);
  return text;
}

/// Calls change(piece) for each token of the vocabulary. A piece stays where nothing would be left:
/// an id without bytes is no token.
template <class Change>
void change_pieces(TokenizerFile& file, Change&& change) {
  for (std::string& piece : file.pieces) {
    if (piece.empty()) continue;
    std::string changed = change(piece);
    if (!changed.empty()) piece = std::move(changed);
  }
}

void decode_word_pieces(const JsonObject& step, TokenizerFile& file) {
  const std::string& prefix = step.text("prefix");
  const bool cleanup = step.flag_or("cleanup", true);
  change_pieces(file, [&](const std::string& piece) {
    std::string changed =
        piece.starts_with(prefix) && !prefix.empty() ? piece.substr(prefix.size()) : " " + piece;
    return cleanup ? cleaned_up(std::move(changed)) : changed;
  });
  file.strips_space = true;
}

void decode_bytes(TokenizerFile& file) {
  for (std::size_t byte = 0; byte < file.byte_ids.size(); ++byte) {
    if (const std::optional<TokenId> id = file.byte_ids[byte])
      set_piece(file, *id, std::string(1, static_cast<char>(byte)));
  }
}

/// Only the space that stands for the beginning of a text is dropped.
void read_strip(const JsonObject& step, bool fused, TokenizerFile& file) {
  if (!fused) step.unsupported("type", "Fuse before Strip");
  if (step.text("content") != " ") step.unsupported("content", "a space");
  const std::int64_t start = step.integer("start", 0, max_id),
                     stop = step.integer("stop", 0, max_id);
  if (start > 1) step.unsupported("start", "0 or 1");
  if (stop > 0) step.unsupported("stop", "0");
  file.strips_space = start == 1;
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

/// BertProcessing and RobertaProcessing put cls before a text and sep after it.
void read_cls_and_sep(const JsonObject& step, TokenizerFile& file) {
  const auto id_of = [&](std::string_view key) {
    const auto& pair = step.at(key);
    if (!pair.is_array() || pair.size() != 2 || !io::whole_number(pair[1], 0, max_id))
      step.refuse(key, "a token and its id");
    const std::int64_t id = *io::whole_number(pair[1], 0, max_id);
    if (!file.names(id)) step.refuse(key, "the id of a token");
    return id;
  };
  file.before.insert(file.before.begin(), id_of("cls"));
  file.after.push_back(id_of("sep"));
}

}  // namespace

void read_normalizer(const JsonObject& root, TokenizerFile& file) {
  Normalizer& steps = file.normalizer;
  for (const JsonObject& step : steps_of(root, "normalizer", "normalizers")) {
    const std::string& type = step.text("type");
    if (type == "NFC") {
      steps.add(TextForm::nfc);
    } else if (type == "NFD") {
      steps.add(TextForm::nfd);
    } else if (type == "Lowercase") {
      steps.add(TextForm::lowercase);
    } else if (type == "Prepend") {
      steps.add(Prepend{step.text("prepend")});
    } else if (type == "Replace") {
      steps.add(Replace{read_pattern(step, file.name), step.text("content")});
    } else if (type == "BertNormalizer") {
      steps.add(read_bert_normalizer(step));
    } else {
      step.unsupported("type", "NFC, NFD, Lowercase, Prepend, Replace, BertNormalizer or Sequence");
    }
  }
}

void read_pre_tokenizer(const JsonObject& root, TokenizerFile& file) {
  const std::vector<JsonObject> steps = steps_of(root, "pre_tokenizer", "pretokenizers");
  for (const JsonObject& step : steps) {
    if (!is_text(step, "type", "ByteLevel")) {
      add_pre_tokenizer(step, file);
    } else if (&step == &steps.back()) {
      read_byte_level(step, file);
    } else {
      step.unsupported("type", "ByteLevel as the last step alone");
    }
  }
}

void read_decoder(const JsonObject& root, TokenizerFile& file) {
  bool fused = false;
  for (const JsonObject& step : steps_of(root, "decoder", "decoders")) {
    const std::string& type = step.text("type");
    if (type == "ByteLevel" && file.symbols == Symbols::bytes) continue;
    if (file.symbols == Symbols::bytes) step.unsupported("type", "ByteLevel");
    if (type == "WordPiece") {
      decode_word_pieces(step, file);
    } else if (type == "Replace") {
      const Regex pattern = read_pattern(step, file.name);
      const Normalizer replace = [&] {
        Normalizer made;
        made.add(Replace{pattern, step.text("content")});
        return made;
      }();
      change_pieces(file, [&](const std::string& piece) {
        MatchSteps match_steps(piece.size());
        return valid_size(piece) == piece.size() ? replace(piece, match_steps) : piece;
      });
    } else if (type == "Metaspace") {
      const std::string replacement = read_replacement(step);
      change_pieces(file,
                    [&](const std::string& piece) { return replaced(piece, replacement, " "); });
      file.strips_space = read_scheme(step) != Metaspace::Scheme::never;
    } else if (type == "ByteFallback") {
      decode_bytes(file);
    } else if (type == "Strip") {
      read_strip(step, fused, file);
    } else if (type != "Fuse") {
      step.unsupported("type",
                       "ByteLevel, WordPiece, Metaspace, Replace, ByteFallback, Fuse or Strip");
    }
    fused = fused || type == "Fuse";
  }
}

void read_post_processor(const JsonObject& root, TokenizerFile& file) {
  for (const JsonObject& step : steps_of(root, "post_processor", "processors")) {
    if (is_text(step, "type", "TemplateProcessing")) {
      read_template(step, file);
    } else if (is_text(step, "type", "BertProcessing") ||
               is_text(step, "type", "RobertaProcessing")) {
      read_cls_and_sep(step, file);
    } else if (!is_text(step, "type", "ByteLevel")) {
      step.unsupported("type",
                       "TemplateProcessing, BertProcessing, RobertaProcessing or ByteLevel");
    }
  }
}

}  // namespace attn::model
