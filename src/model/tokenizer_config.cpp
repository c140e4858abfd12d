#include "model/tokenizer_config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "io/json.hpp"
#include "io/message.hpp"

namespace attn::model {
namespace {

using io::in_quotes;
using io::JsonObject;

/// The tokens that a class of Transformers puts around a text, and the values of keys that the file
/// lacks.
struct TokenizerClass {
  std::string_view name;
  bool add_bos;
  std::string_view bos, eos;
};
constexpr std::array<TokenizerClass, 5> classes{{
    {"LlamaTokenizer", true, "<s>", "</s>"},
    {"CodeLlamaTokenizer", true, "<s>", "</s>"},
    {"GemmaTokenizer", true, "<bos>", "<eos>"},
    {"CohereTokenizer", true, "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"},
    {"GPTNeoXTokenizer", false, "<|endoftext|>", "<|endoftext|>"},
}};

const TokenizerClass* class_named(std::string_view name) {
  constexpr std::string_view fast = "Fast";
  if (name.ends_with(fast)) name.remove_suffix(fast.size());
  const auto* const found =
      std::find_if(classes.begin(), classes.end(),
                   [&](const TokenizerClass& each) { return each.name == name; });
  return found == classes.end() ? nullptr : found;
}

/// One of the two flags, the token it speaks of, and the ids on that side of a text.
struct Side {
  std::string_view flag, token, place;
  bool flag_missing;
  std::string_view token_missing;
  std::vector<std::int64_t>& ids;
};

/// Transformers takes null for false.
bool flag_of(const JsonObject& config, const Side& side) {
  if (config.is_null(side.flag)) return false;
  return config.flag_or(side.flag, side.flag_missing);
}

/// The text of a token, which the file has as a string or as an object with the key `content`.
std::string token_of(const JsonObject& config, const Side& side) {
  if (config.is_null(side.token)) {
    config.refuse(side.token,
                  fmt::format("a token, because {} puts it {} a text", side.flag, side.place));
  }
  if (!config.has(side.token)) return std::string(side.token_missing);
  return config.at(side.token).is_object() ? config.object(side.token).text("content")
                                           : config.text(side.token);
}

void follow(const JsonObject& config, const Side& side, TokenizerFile& tokenizer) {
  if (!flag_of(config, side)) return side.ids.clear();
  const std::string token = token_of(config, side);
  const std::optional<std::int64_t> id = tokenizer.find(token);
  if (id) return side.ids.assign(1, *id);
  tokenizer.notices.push_back(
      fmt::format("{}: {} {} is no token of tokenizer.json, so that {} is not followed",
                  config.file(), side.token, in_quotes(token), side.flag));
}

void notice_if_not_followed(const JsonObject& config, const Side& side, const std::string& name,
                            TokenizerFile& tokenizer) {
  if (!config.has(side.flag) || config.flag(side.flag) != side.ids.empty()) return;
  tokenizer.notices.push_back(
      fmt::format("{}: {} is {}, which {} does not follow: the post_processor of tokenizer.json "
                  "puts {} a text",
                  config.file(), side.flag, config.flag(side.flag),
                  name.empty() ? "a tokenizer without a class" : "the class " + in_quotes(name),
                  fmt::format("{} {}", side.ids.empty() ? "no token" : "a token", side.place)));
}

/// Transformers' classes of BERT put these three into the place of what tokenizer.json says.
void notice_normalizer(const JsonObject& config, const std::string& name,
                       TokenizerFile& tokenizer) {
  const BertNormalizer* const bert = tokenizer.normalizer.bert();
  if (bert == nullptr || name.starts_with("PreTrainedTokenizer")) return;
  struct Setting {
    std::string_view key, name;
    bool value;
  };
  for (const auto& [key, own_name, value] :
       {Setting{"do_lower_case", "lowercase", bert->lowercase},
        Setting{"strip_accents", "strip_accents", bert->strip_accents},
        Setting{"tokenize_chinese_chars", "handle_chinese_chars", bert->handle_chinese_chars}}) {
    if (!config.has(key) || config.flag(key) == value) continue;
    tokenizer.notices.push_back(
        fmt::format("{}: {} is {}, which is not followed: the normalizer of tokenizer.json has {} "
                    "of {}",
                    config.file(), key, !value, own_name, value));
  }
}

}  // namespace

void follow_tokenizer_config(const std::filesystem::path& path, TokenizerFile& tokenizer) {
  const JsonObject config(path);
  constexpr std::string_view key = "tokenizer_class";
  const std::string name = config.has(key) ? config.text(key) : "";
  notice_normalizer(config, name, tokenizer);
  const TokenizerClass* const known = class_named(name);
  const TokenizerClass of = known != nullptr ? *known : TokenizerClass{};
  const Side bos{"add_bos_token", "bos_token", "before", of.add_bos, of.bos, tokenizer.before};
  const Side eos{"add_eos_token", "eos_token", "after", false, of.eos, tokenizer.after};
  for (const Side* const side : {&bos, &eos}) {
    if (known != nullptr) {
      follow(config, *side, tokenizer);
    } else {
      notice_if_not_followed(config, *side, name, tokenizer);
    }
  }
}

}  // namespace attn::model
