// attn_demo: attention on tensors in files.
#include <attn/info.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <string>
#include <string_view>

#include "apps/support/command_line.hpp"
#include "apps/support/ranks.hpp"
#include "commands.hpp"
#include "outputs.hpp"

namespace attn::apps::demo {
namespace {

std::string version_line() {
  const BuildInfo build = build_info();
  return fmt::format(
      "attn_demo {} ({}, {})", build.version, build.compiler,
      build.onednn_version.empty() ? "without oneDNN" : "oneDNN " + build.onednn_version);
}

int run_command_line(int argc, char** argv) {
  remove_outputs_on_signals();
  CLI::App app(
      "Scaled dot-product attention on tensors in files. Without a command: compares three ways "
      "to compute it on sample tensors.",
      "attn_demo");
  app.set_version_flag("--version", version_line());
  app.footer("attn_demo COMMAND --help lists the options of a command.");
  Command chosen = compare_samples;
  add_run(app, chosen);
  add_backward(app, chosen);
  add_ring(app, chosen);
  add_compare(app, chosen);
  add_op(app, chosen);
  add_plot(app, chosen);
  add_heatmap(app, chosen);
  add_layers(app, chosen);
  add_generate(app, chosen);
  add_tokenize(app, chosen);
  add_embed(app, chosen);
  add_fit(app, chosen);
  add_predict(app, chosen);
  add_calibrate(app, chosen);
  add_info(app, chosen);
  try {
    parse_command_line(app, argc, argv);
  } catch (const CLI::Success& help_or_version) {
    return app.exit(help_or_version);
  }
  return chosen();
}

}  // namespace
}  // namespace attn::apps::demo

int main(int argc, char** argv) {
  const bool on_ranks = argc > 1 && std::string_view(argv[1]) == "ring";
  return attn::apps::run_program_on_ranks("attn_demo", attn::apps::demo::run_command_line, argc,
                                          argv, on_ranks);
}
