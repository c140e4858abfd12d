#include "prompt.hpp"

#include <attn/error.hpp>
#include <attn/tokenizer.hpp>

#include <fmt/format.h>

#include <algorithm>

#include "apps/attn_demo/call/arguments.hpp"
#include "apps/attn_demo/terminal.hpp"
#include "apps/support/options.hpp"

namespace attn::apps::demo {
namespace {

std::vector<std::int64_t> ids_value(const std::string& option, const std::string& text) {
  std::vector<std::int64_t> ids;
  for (const std::string_view id : split(text, ','))
    ids.push_back(integer_value(option, id, {.min = 0}));
  return ids;
}

/// Whether the text spells out the token that the tokenizer adds at its beginning.
bool begins_twice(const std::vector<std::int64_t>& ids, const Tokenizer& tokenizer) {
  return ids.size() > 1 && tokenizer.bos() == ids[0] && ids[0] == ids[1];
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
  for (const std::string& notice : tokenizer->notices()) notify(notice);
  if (begins_twice(ids, *tokenizer)) {
    notify(fmt::format(
        "the prompt begins with {}, which the tokenizer puts before each text: the model reads it "
        "twice",
        tokenizer->piece(ids.front())));
  }
  if (ids.empty()) reject("--prompt is empty, and the model begins texts with no token of its own");
  return ids;
}

}  // namespace attn::apps::demo
