// The prompt of a model: a text, or token ids.
#pragma once

#include <attn/tokenizer.hpp>

#include <CLI/CLI.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model.hpp"

namespace attn::apps::demo {

struct PromptChoice {
  std::optional<std::string> text;
  std::optional<std::vector<std::int64_t>> ids;
  bool given() const noexcept { return text || ids; }
};

/// Adds --prompt and --prompt-ids.
void add_prompt_options(CLI::App& command, PromptChoice& choice);
/// The same, of which each may be given several times: `others` are the prompts after the first.
void add_several_prompts(CLI::App& command, PromptChoice& first, std::vector<PromptChoice>& others);

/// The model's tokenizer. If ids are given, none is needed: then a tokenizer of an unsupported kind
/// gives an empty result instead of an error.
std::optional<Tokenizer> tokenizer_for(const PromptChoice& choice, const ModelSource& source);

/// The ids of the prompt, at least one. Throws attn::Error if there is none, if there is a text but
/// no tokenizer, or if an id is not in the model's vocabulary. Prints a notice about settings of
/// the tokenizer that are not followed, and about a text that begins with the token that is added
/// before it.
std::vector<std::int64_t> prompt_ids(const PromptChoice& choice,
                                     const std::optional<Tokenizer>& tokenizer,
                                     const ModelSource& source);

}  // namespace attn::apps::demo
