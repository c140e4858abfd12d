#include "prompt.hpp"

#include <attn/error.hpp>
#include <attn/tokenizer.hpp>

#include <algorithm>

#include "apps/attn_demo/call/arguments.hpp"
#include "apps/support/options.hpp"

namespace attn::apps::demo {
namespace {

std::vector<std::int64_t> ids_value(const std::string& option, const std::string& text) {
  std::vector<std::int64_t> ids;
  for (const std::string_view id : split(text, ','))
    ids.push_back(integer_value(option, id, {.min = 0}));
  return ids;
}

}  // namespace

void add_prompt_options(CLI::App& command, PromptChoice& choice) {
  auto* const text =
      add_text(command, "--prompt FILE", choice.text, "the text that the model reads");
  text->type_name("TEXT");
  add_value(command, "--prompt-ids IDS", "token ids in its place, with commas between them",
            [&choice](auto option, auto value) { choice.ids = ids_value(option, value); })
      ->excludes(text);
}

std::optional<Tokenizer> tokenizer_for(const PromptChoice& choice, const ModelSource& source) {
  try {
    return source.tokenizer();
  } catch (const Error& error) {
    if (!choice.ids || error.code() != ErrorCode::unsupported) throw;
    return std::nullopt;
  }
}

std::vector<std::int64_t> prompt_ids(const PromptChoice& choice,
                                     const std::optional<Tokenizer>& tokenizer) {
  if (choice.ids) return *choice.ids;
  if (!choice.text) reject("a model needs --prompt TEXT or --prompt-ids 1,2,3");
  if (!tokenizer)
    reject("--prompt needs a tokenizer.json in the model's folder; --prompt-ids does not");
  std::vector<std::int64_t> ids = tokenizer->encode(*choice.text);
  if (ids.empty()) reject("--prompt is empty, and the model begins texts with no token of its own");
  return ids;
}

}  // namespace attn::apps::demo
