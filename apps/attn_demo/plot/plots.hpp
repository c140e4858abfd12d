// The pictures of softmax regression, which attn_demo plot has besides those of the softmax family.
#pragma once

#include <CLI/CLI.hpp>

#include "apps/attn_demo/commands.hpp"

namespace attn::apps::demo {

/// Each adds a command to `plot`.
void add_regions_plot(CLI::App& plot, Command& chosen);
void add_reliability_plot(CLI::App& plot, Command& chosen);

}  // namespace attn::apps::demo
