// attn_demo: attention on tensors in files.
#include <attn/error.hpp>
#include <attn/info.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "commands.hpp"

namespace attn::apps::demo {
namespace {

constexpr int failure = 2;

/// Exactly one line, whatever names of files or tensors the message quotes.
int fail(std::string message) {
  const auto control = [](unsigned char c) { return std::iscntrl(c) != 0; };
  std::replace_if(message.begin(), message.end(), control, ' ');
  fmt::print(stderr, "attn_demo: error: {}\n", message);
  return failure;
}

std::string version_line() {
  const BuildInfo build = build_info();
  return fmt::format("attn_demo {} ({}, oneDNN {})", build.version, build.compiler,
                     build.onednn_version);
}

int run_command_line(int argc, char** argv) {
  CLI::App app(
      "Scaled dot-product attention on tensors in files. Without a command: compares the ways to "
      "compute it on sample tensors.",
      "attn_demo");
  app.set_version_flag("--version", version_line());
  app.require_subcommand(0, 1);
  Command chosen = compare_samples;
  add_run(app, chosen);
  add_compare(app, chosen);
  add_op(app, chosen);
  add_plot(app, chosen);
  add_layers(app, chosen);
  add_generate(app, chosen);
  add_heatmap(app, chosen);
  add_info(app, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help_or_version) {
    return app.exit(help_or_version);
  }
  return chosen();
}

}  // namespace

void flush_output() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    throw Error(ErrorCode::io, "cannot write to standard output");
}

void require_name(CLI::App& command) {
  command.require_subcommand(0, 1);
  command.callback([&command] {
    if (!command.get_subcommands().empty()) return;
    std::string names;
    for (const CLI::App* each : command.get_subcommands({}))
      names += (names.empty() ? "" : ", ") + each->get_name();
    throw Error(ErrorCode::invalid_argument,
                fmt::format("{} needs a name after it, one of {}", command.get_name(), names));
  });
}

}  // namespace attn::apps::demo

int main(int argc, char** argv) {
  using namespace attn::apps::demo;
  try {
    const int code = run_command_line(argc, argv);
    flush_output();
    return code;
  } catch (const std::bad_alloc&) {
    return fail("out of memory");
  } catch (const std::exception& error) {
    return fail(error.what());
  }
}
