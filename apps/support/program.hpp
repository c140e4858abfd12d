// What the programs have in common: their standard streams, errors and exit codes.
#pragma once

#include <string>

namespace attn::apps {

/// Runs a program and returns its exit code. An exception, and standard output that cannot be
/// written, give 2 and one line "NAME: error: ..." on standard error.
int run_program(const char* name, int (*program)(int argc, char** argv), int argc, char** argv);

/// Flushes standard output. Throws Error(io) if it cannot be written.
void flush_output();

/// Writes to standard error. A failure is ignored, because there is nowhere to report it.
void print_notice(const std::string& text) noexcept;

}  // namespace attn::apps
