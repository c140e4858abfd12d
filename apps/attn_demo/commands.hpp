// The commands of attn_demo, one file each.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>

namespace attn::demo {

/// What the command line chose to do; returns the exit code.
using Command = std::function<int()>;

void add_run(CLI::App& app, Command& chosen);
void add_compare(CLI::App& app, Command& chosen);
void add_op(CLI::App& app, Command& chosen);
void add_plot(CLI::App& app, Command& chosen);
void add_info(CLI::App& app, Command& chosen);

/// attn_demo without a command.
int compare_samples();

}  // namespace attn::demo
