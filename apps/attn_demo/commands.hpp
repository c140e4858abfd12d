// The commands of attn_demo.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>
#include <memory>
#include <string>

namespace attn::apps::demo {

/// The action that the command line chose. It returns the exit code.
using Command = std::function<int()>;

template <class Arguments>
struct AddedCommand {
  CLI::App& command;
  Arguments& arguments;
};

/// Adds a command whose options fill a new object of Arguments. If the command line names it,
/// `chosen` becomes run(arguments).
template <class Arguments, class Run>
AddedCommand<Arguments> add_command(CLI::App& app, Command& chosen, const std::string& name,
                                    const std::string& description, Run run) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command = *app.add_subcommand(name, description);
  command.callback(
      [arguments, run, &chosen] { chosen = [arguments, run] { return run(*arguments); }; });
  return {command, *arguments};
}

void add_run(CLI::App& app, Command& chosen);
void add_backward(CLI::App& app, Command& chosen);
/// In a build without MPI, it is not listed and says so.
void add_ring(CLI::App& app, Command& chosen);
void add_compare(CLI::App& app, Command& chosen);
void add_op(CLI::App& app, Command& chosen);
void add_plot(CLI::App& app, Command& chosen);
void add_layers(CLI::App& app, Command& chosen);
void add_generate(CLI::App& app, Command& chosen);
void add_heatmap(CLI::App& app, Command& chosen);
void add_fit(CLI::App& app, Command& chosen);
void add_predict(CLI::App& app, Command& chosen);
void add_calibrate(CLI::App& app, Command& chosen);
void add_tokenize(CLI::App& app, Command& chosen);
void add_embed(CLI::App& app, Command& chosen);
void add_info(CLI::App& app, Command& chosen);

/// What attn_demo does without a command.
int compare_samples();

}  // namespace attn::apps::demo
