// attn_demo info: what this build can do on this machine.
#include <attn/attn.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include <cstdlib>
#include <fstream>

#include "commands.hpp"

namespace attn::apps::demo {
namespace {

std::string names_of(const std::vector<Isa>& isas) {
  std::vector<std::string_view> names;
  names.reserve(isas.size());
  for (const Isa isa : isas) names.push_back(name_of(isa));
  return fmt::format("{}", fmt::join(names, ", "));
}

/// The name of the processor, as Linux gives it on x86.
std::string processor() {
  std::ifstream lines("/proc/cpuinfo");
  for (std::string line; std::getline(lines, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

std::string why_default(Isa chosen, Isa strongest, const BuildInfo& build) {
  if (build.onednn_version.empty()) return "the strongest available";
  const char* const limit = std::getenv("ONEDNN_MAX_CPU_ISA");
  const std::string setting =
      limit != nullptr ? fmt::format("; ONEDNN_MAX_CPU_ISA is {}", limit) : "";
  return (chosen == strongest ? "the strongest available" : "oneDNN uses no stronger one here") +
         setting;
}

int show_info() {
  const BuildInfo build = build_info();
  const std::vector<Isa> available = available_isas();
  const Isa chosen = default_isa();
  const auto print = [](const char* what, const std::string& value) {
    fmt::print("{:<17} {}\n", what, value);
  };
  print("attn", build.version);
  print("compiler", build.compiler);
  print("oneDNN", build.onednn_version.empty() ? "none (built with ATTN_WITH_ONEDNN=OFF)"
                                               : build.onednn_version);
  print("processor", processor());
  print("threads", fmt::format("{} (default)", build.num_threads));
  print("ISAs built", names_of(build.isas));
  print("ISAs available", names_of(available));
  print("ISA by default",
        fmt::format("{} ({})", name_of(chosen), why_default(chosen, available.back(), build)));
  if (build.onednn_version.empty()) return 0;
  print("oneDNN's matmul",
        fmt::format("{} ({})", build.onednn_matmul,
                    build.onednn_matmul_fast
                        ? "fast: a kernel made for the shape"
                        : "slow for tiles of scores: oneDNN has no fast \"brg\" kernel here"));
  return 0;
}

}  // namespace

void add_info(CLI::App& app, Command& chosen) {
  app.add_subcommand("info", "what this build can do on this machine")->callback([&chosen] {
    chosen = show_info;
  });
}

}  // namespace attn::apps::demo
