// Times a call whose sequence is cut over the ranks of MPI.
#pragma once

#include <CLI/CLI.hpp>

#include "case.hpp"
#include "measure.hpp"

namespace attn::apps::bench {

/// Adds --ring; nothing in a build without MPI.
void add_ring_option(CLI::App& app, bool& ring);

/// Runs the case on all ranks and prints, on rank 0, what each did. Throws attn::Error for a case
/// that the ring does not serve.
void measure_ring(const Case& shape, const Settings& settings, bool json);

}  // namespace attn::apps::bench
