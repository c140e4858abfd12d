// What compare --backward prints.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "apps/attn_demo/terminal.hpp"
#include "describe.hpp"
#include "gradients.hpp"

namespace attn::apps::demo {

void print_text(const Call& call, const GradientComparison& comparison) {
  fmt::print("{}{}\n\n", describe_call(call), comparison.path);
  std::vector<std::vector<std::string>> rows = {
      {"gradient", "max abs", "max rel", "RMS", "worst", "tolerance"}};
  for (const ComparedGradient& each : comparison.gradients) {
    rows.push_back({each.name, format_error(each.errors.max_abs), format_error(each.errors.max_rel),
                    format_error(each.errors.rms), format_index(each.errors.worst),
                    format_error(each.tolerance)});
  }
  print_table(rows);
  fmt::print(
      "\nErrors are those of tiled against naive.\n"
      "tiled: {} without the forward, {} scratch; naive: {}; speed-up {}\n",
      format_seconds(comparison.tiled_seconds),
      format_bytes(static_cast<double>(comparison.scratch)),
      format_seconds(comparison.naive_seconds), format_speedup(comparison.speedup()));
  fmt::print("tolerance: {}\n", comparison.derivation);
  fmt::print("{}\n", comparison.within_tolerance() ? styled(Style::good, "within tolerance")
                                                   : styled(Style::bad, "past the tolerance"));
}

void print_json(const Call& call, const GradientComparison& comparison) {
  nlohmann::ordered_json all = {{"shape", sizes_of(call)},
                                {"dtype", name_of(call.dtype)},
                                {"threads", comparison.num_threads}};
  for (const ComparedGradient& each : comparison.gradients) {
    all["gradients"][each.name] = {{"max_abs", each.errors.max_abs},
                                   {"max_rel", each.errors.max_rel},
                                   {"rms", each.errors.rms},
                                   {"worst", each.errors.worst},
                                   {"tolerance", each.tolerance}};
  }
  all["tiled"] = {{"time_ms", comparison.tiled_seconds * 1e3},
                  {"speedup", comparison.speedup()},
                  {"scratch_bytes", comparison.scratch}};
  all["naive"] = {{"time_ms", comparison.naive_seconds * 1e3}};
  all["derivation"] = comparison.derivation;
  all["path"] = comparison.path;
  all["within_tolerance"] = comparison.within_tolerance();
  fmt::print("{}\n", all.dump());
}

}  // namespace attn::apps::demo
