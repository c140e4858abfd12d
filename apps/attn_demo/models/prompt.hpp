// What a model is given to read.
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

/// The model's tokenizer. Where ids are given, one of a kind that is not supported is as good as
/// none.
std::optional<Tokenizer> tokenizer_for(const PromptChoice& choice, const ModelSource& source);

/// At least one id. Throws attn::Error where there is none, or a text and no tokenizer.
std::vector<std::int64_t> prompt_ids(const PromptChoice& choice,
                                     const std::optional<Tokenizer>& tokenizer);

}  // namespace attn::apps::demo
