// How the command line names the inputs and options of a call.
#pragma once

#include <CLI/CLI.hpp>

#include <optional>
#include <string>
#include <vector>

#include "call_arguments.hpp"

namespace attn::apps::demo {

/// Adds an option whose name and text go to `take`.
template <class Take>
CLI::Option* add_value(CLI::App& command, const std::string& option, const std::string& type,
                       const std::string& description, Take take) {
  const auto callback = [option, take](const std::string& text) { take(option, text); };
  return command.add_option_function<std::string>(option, callback, description)->type_name(type);
}
/// Adds an option that names a file; an empty name is a name too.
CLI::Option* add_file(CLI::App& command, const std::string& option,
                      std::optional<std::string>& file, const std::string& description);
/// Adds --threads and --isa.
void add_execution_options(CLI::App& command, std::optional<int>& num_threads,
                           std::optional<Isa>& isa);
/// Adds the options that `run` and `compare` share, but for --q, --k and --v: those that say which
/// call is made.
void add_call_options(CLI::App& command, CallArguments& arguments);
/// Adds those of them that say how scores become weights: masks, scores and the normalizer.
void add_weight_options(CLI::App& command, CallArguments& arguments);
/// Adds --q, --k, and what says how inputs are laid out. Returns all of these options.
std::vector<CLI::Option*> add_score_files(CLI::App& command, CallArguments& arguments);
/// Adds these, --v, and what comes before keys and values. Returns all of these options.
std::vector<CLI::Option*> add_input_files(CLI::App& command, CallArguments& arguments);

}  // namespace attn::apps::demo
