// attn_demo compare: runs one call with each kernel and compares results, times and memory.
#include <attn/attn.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/attn_demo/call/arguments.hpp"
#include "apps/attn_demo/commands.hpp"
#include "apps/attn_demo/terminal.hpp"
#include "apps/support/memory.hpp"
#include "apps/support/options.hpp"
#include "comparison.hpp"
#include "describe.hpp"
#include "gradients.hpp"

namespace attn::apps::demo {
namespace {

struct CompareArguments {
  CallArguments call;
  GradientArguments gradients;
  bool backward = false;
  std::optional<CallSizes> shape;
  std::uint64_t seed = 0;
  std::optional<double> tolerance;
  bool json = false;
};

constexpr int same = 0, different = 1;

CallSizes shape_value(const std::string& option, const std::string& text) {
  const CallSizes sizes = sizes_value(option, text, 0);
  const double q_rows = product_of({sizes.batch, sizes.num_q_heads, sizes.q_len});
  const double kv_rows = product_of({sizes.batch, sizes.num_kv_heads, sizes.kv_len});
  const double head_dim = static_cast<double>(sizes.head_dim),
               v_head_dim = static_cast<double>(sizes.v_head_dim);
  // Inputs exist as given, in float and in double: 16 bytes an element. Outputs exist in double
  // and as each kernel writes them: 24 bytes an element.
  const double inputs_and_outputs =
      16 * (q_rows * head_dim + kv_rows * (head_dim + v_head_dim)) + 24 * q_rows * (v_head_dim + 1);
  require_memory(fmt::format("{} {}", option, text), inputs_and_outputs);
  return sizes;
}

std::vector<std::string> table_row(const Measured& measured, const Comparison& comparison) {
  const bool reference = measured.is_reference();
  const auto error = [&](double value) { return reference ? "-" : format_error(value); };
  return {measured.kernel,
          error(measured.out.max_abs),
          error(measured.out.max_rel),
          error(measured.out.rms),
          reference ? "-" : format_index(measured.out.worst),
          measured.lse ? error(measured.lse->max_abs) : "-",
          format_seconds(measured.seconds),
          format_speedup(comparison.speedup(measured)),
          format_bytes(static_cast<double>(measured.scratch))};
}

void print_text(const Call& call, const Comparison& comparison) {
  fmt::print("{}{}\n\n", describe_call(call), comparison.path);

  std::vector<std::vector<std::string>> rows = {
      {"kernel", "max abs", "max rel", "RMS", "worst", "lse", "time", "speed-up", "scratch"}};
  for (const Measured& measured : comparison.kernels())
    rows.push_back(table_row(measured, comparison));
  print_table(rows);

  fmt::print(
      "\nErrors and speed-up refer to naive. max abs, max rel, RMS and the worst element are those "
      "of "
      "O;\nlse is max abs.\n");
  fmt::print("The q_len x kv_len score matrix of all heads, which unfused holds: {}\n",
             format_bytes(comparison.score_matrix));
  if (!comparison.unfused) fmt::print("unfused was left out: that does not fit in memory\n");
  const Tolerance& tolerance = comparison.tolerance;
  const std::string lse = comparison.tiled.lse ? fmt::format("; of lse {:.1e}", tolerance.lse)
                                               : "; lse is of softmax alone";
  fmt::print("tolerance {:.1e}: {}{}\n", tolerance.out, tolerance.derivation, lse);
  fmt::print("{}\n", comparison.within_tolerance() ? styled(Style::good, "within tolerance")
                                                   : styled(Style::bad, "past the tolerance"));
}

nlohmann::ordered_json json_of(const Measured& measured, const Comparison& comparison) {
  const auto errors = [](const Errors& of) {
    return nlohmann::ordered_json{
        {"max_abs", of.max_abs}, {"max_rel", of.max_rel}, {"rms", of.rms}, {"worst", of.worst}};
  };
  return {{"out", errors(measured.out)},
          {"lse", measured.lse ? errors(*measured.lse) : nlohmann::ordered_json(nullptr)},
          {"time_ms", measured.seconds * 1e3},
          {"speedup", comparison.speedup(measured)},
          {"scratch_bytes", measured.scratch}};
}

void print_json(const Call& call, const Comparison& comparison) {
  nlohmann::ordered_json all = {{"shape", sizes_of(call)},
                                {"dtype", name_of(call.dtype)},
                                {"kv_dtype", name_of(call.kv_dtype.value_or(call.dtype))},
                                {"page_size", call.page_size},
                                {"threads", comparison.num_threads},
                                {"tiled", json_of(comparison.tiled, comparison)},
                                {"tiled_onednn", nullptr},
                                {"unfused", nullptr},
                                {"naive", json_of(comparison.naive, comparison)},
                                {"score_matrix_bytes", comparison.score_matrix},
                                {"tolerance", comparison.tolerance.out},
                                {"lse_tolerance", nullptr},
                                {"derivation", comparison.tolerance.derivation},
                                {"path", comparison.path},
                                {"within_tolerance", comparison.within_tolerance()}};
  if (comparison.tiled.lse) all["lse_tolerance"] = comparison.tolerance.lse;
  if (comparison.tiled_onednn) all["tiled_onednn"] = json_of(*comparison.tiled_onednn, comparison);
  if (comparison.unfused) all["unfused"] = json_of(*comparison.unfused, comparison);
  fmt::print("{}\n", all.dump());
}

template <class Comparison>
int report(const CompareArguments& arguments, const Call& call, const Comparison& comparison) {
  if (arguments.json) {
    print_json(call, comparison);
  } else {
    print_text(call, comparison);
  }
  return comparison.within_tolerance() ? same : different;
}

/// Gradients are those of K and V as they are given.
void refuse_cache(const CallArguments& arguments) {
  for (const auto& [option, given] :
       {std::pair{"--kv-dtype", arguments.types.kv_dtype.has_value()},
        std::pair{"--page-size", arguments.types.page_size.has_value()},
        std::pair{"--past-k", arguments.past_k.has_value()}}) {
    if (given) reject("--backward does not go with {}: a cache has no gradients", option);
  }
}

int compare_backward(const CompareArguments& arguments, const Call& call) {
  const IncomingGradients incoming = arguments.gradients.dout
                                         ? load_gradients(call, arguments.call, arguments.gradients)
                                         : random_gradients(call, 3 * arguments.seed + 3);
  return report(arguments, call, compare_gradients(call, incoming, arguments.tolerance));
}

int compare(const CompareArguments& arguments) {
  if (arguments.backward) refuse_cache(arguments.call);
  const Call call = arguments.shape ? random_call(arguments.call, *arguments.shape, arguments.seed)
                                    : load_call(arguments.call);
  if (arguments.backward) return compare_backward(arguments, call);
  return report(arguments, call, compare_kernels(call, arguments.tolerance));
}

}  // namespace

void add_compare(CLI::App& app, Command& chosen) {
  const auto [command, arguments] = add_command<CompareArguments>(
      app, chosen, "compare",
      "tiled (also with oneDNN's matmul), unfused and naive side by side; ends with 1 if they "
      "differ",
      [](const CompareArguments& given) {
        return under_option_names(call_option_names, [&] { return compare(given); });
      });
  auto* const shape = add_value(
      command, "--shape B,H,HKV,SQ,SKV,D[,DV]",
      "random inputs instead of files: batch, heads, KV heads, q_len, kv_len, dim and, "
      "if another, dim of V",
      [&shape = arguments.shape](auto option, auto text) { shape = shape_value(option, text); });
  add_seed(command, arguments.seed, "the seed of the random inputs; default 0")->needs(shape);
  for (CLI::Option* input : add_input_files(command, arguments.call)) shape->excludes(input);
  auto* const backward = command.add_flag(
      "--backward", arguments.backward,
      "gradients of the engine and of the textbook side by side; dout is random without --dout");
  const std::vector<CLI::Option*> incoming = add_gradient_files(command, arguments.gradients);
  for (CLI::Option* input : incoming) input->needs(backward)->excludes(shape);
  incoming[1]->needs(incoming[0]);
  set_help_group(command, "Gradients");
  add_call_options(command, arguments.call);
  add_number(
      command, "--tolerance X", arguments.tolerance, not_negative,
      "largest absolute error of O and lse, or of gradients, that passes; default derived from "
      "the inputs");
  command.add_flag("--json", arguments.json, "one JSON object instead of the table");
  set_help_group(command, "Result");
}

}  // namespace attn::apps::demo
