#include "prompt.hpp"

#include <attn/error.hpp>
#include <attn/tokenizer.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "apps/attn_demo/call/arguments.hpp"
#include "apps/attn_demo/terminal.hpp"
#include "apps/support/options.hpp"

namespace attn::apps::demo {
namespace {

std::vector<std::int64_t> ids_value(const std::string& option, const std::string& text) {
  const std::string needed = fmt::format("integers in 0..{}, with commas between them",
                                         std::numeric_limits<std::int64_t>::max());
  std::vector<std::int64_t> ids = integers_value(option, text, needed);
  if (*std::min_element(ids.begin(), ids.end()) < 0) reject_value(option, text, needed);
  return ids;
}

/// Refuses ids that the model has no embedding for.
void check_ids(const std::vector<std::int64_t>& ids, const PromptChoice& choice,
               const ModelSource& source) {
  const std::int64_t vocab_size = source.vocab_size();
  const auto wrong =
      std::find_if(ids.begin(), ids.end(), [&](std::int64_t id) { return id >= vocab_size; });
  if (wrong == ids.end()) return;
  const std::string what = choice.ids ? "--prompt-ids"
                           : source.has_tokenizer_file()
                               ? "--prompt, as tokenizer.json reads it,"
                               : "--prompt, whose bytes are taken as ids since the model has no "
                                 "tokenizer.json,";
  reject("{} has id {} at place {}; it needs to be less than {} (vocab_size)", what, *wrong,
         wrong - ids.begin(), vocab_size);
}

/// Whether the text spells out the token that the tokenizer adds at its beginning.
bool begins_twice(const std::vector<std::int64_t>& ids, const Tokenizer& tokenizer) {
  return ids.size() > 1 && tokenizer.bos() == ids[0] && ids[0] == ids[1];
}

}  // namespace

void add_prompt_options(CLI::App& command, PromptChoice& choice) {
  auto* const text =
      add_text(command, "--prompt TEXT", choice.text, "the text that the model reads");
  add_value(command, "--prompt-ids IDS", "token ids in its place, with commas between them",
            [&choice](auto option, auto value) { choice.ids = ids_value(option, value); })
      ->excludes(text);
}

void add_several_prompts(CLI::App& command, PromptChoice& first,
                         std::vector<PromptChoice>& others) {
  const auto next = [&first, &others]() -> PromptChoice& {
    return first.given() ? others.emplace_back() : first;
  };
  auto* const text = add_each_text(
      command, "--prompt TEXT", [next](auto, const std::string& value) { next().text = value; },
      "the text that the model reads; given several times, the texts go on side by side, a line "
      "for each");
  add_each_text(
      command, "--prompt-ids IDS",
      [next](auto option, const std::string& value) { next().ids = ids_value(option, value); },
      "token ids in its place, with commas between them")
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
                                     const std::optional<Tokenizer>& tokenizer,
                                     const ModelSource& source) {
  if (choice.ids) {
    check_ids(*choice.ids, choice, source);
    return *choice.ids;
  }
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
  check_ids(ids, choice, source);
  return ids;
}

}  // namespace attn::apps::demo
