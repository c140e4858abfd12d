// Reading a command line with CLI11, and what CLI11 leaves unclear.
#pragma once

#include <CLI/CLI.hpp>

#include <string>
#include <string_view>

namespace attn::apps {

/// Parses the command line. What follows the name of an option, or a = after it, becomes its value
/// as it is: it may be empty, begin with a dash, or have brackets. Names of commands and options
/// that the program does not know are refused, and the error says which there are. Throws Error,
/// or what CLI11 throws.
void parse_command_line(CLI::App& app, int argc, char** argv);

/// The text of a value as the command line has it; CLI11 gets it with a mark in front.
std::string_view unmarked(std::string_view value);

}  // namespace attn::apps
