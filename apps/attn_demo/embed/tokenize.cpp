// attn_demo tokenize: the ids of texts.
#include <attn/tokenizer.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <vector>

#include "apps/attn_demo/commands.hpp"
#include "apps/attn_demo/terminal.hpp"
#include "apps/support/options.hpp"

namespace attn::apps::demo {
namespace {

struct TokenizeArguments {
  std::string model;
  std::vector<std::string> texts;
};

int tokenize(const TokenizeArguments& arguments) {
  const Tokenizer tokenizer = Tokenizer::from_folder(arguments.model);
  for (const std::string& notice : tokenizer.notices()) notify(notice);
  std::string lines;
  for (const std::string& text : arguments.texts)
    lines += fmt::format("{}\n", fmt::join(tokenizer.encode(text), ","));
  fmt::print("{}", lines);
  return 0;
}

}  // namespace

void add_tokenize(CLI::App& app, Command& chosen) {
  const auto [command, arguments] = add_command<TokenizeArguments>(
      app, chosen, "tokenize", "the ids of texts, a line for each", tokenize);
  add_file(command, "--model DIR", arguments.model, "a folder with tokenizer.json")->required();
  add_texts(command, "--text TEXT", arguments.texts,
            "a text; give it again for each further one. Special tokens are added as generate "
            "does, and nothing is cut off")
      ->required();
}

}  // namespace attn::apps::demo
