// The commands of attn_demo, one file each.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace attn::apps::demo {

/// What the command line chose to do; returns the exit code.
using Command = std::function<int()>;

/// A command that is several: exactly one of their names has to follow its own.
void require_name(CLI::App& command);

void add_run(CLI::App& app, Command& chosen);
void add_compare(CLI::App& app, Command& chosen);
void add_op(CLI::App& app, Command& chosen);
void add_plot(CLI::App& app, Command& chosen);
void add_layers(CLI::App& app, Command& chosen);
void add_generate(CLI::App& app, Command& chosen);
void add_heatmap(CLI::App& app, Command& chosen);
void add_info(CLI::App& app, Command& chosen);

/// Throws Error(io) if what was printed cannot be written.
void flush_output();

/// attn_demo without a command.
int compare_samples();

}  // namespace attn::apps::demo
