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

namespace attn::apps::demo {
namespace {

struct CompareArguments {
  CallArguments call;
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

std::string describe_masks(const Call& call) {
  std::string text;
  const auto add = [&text](const std::string& mask) { text += (text.empty() ? "" : ", ") + mask; };
  const auto limit = [](const std::optional<std::int64_t>& side) {
    return side ? std::to_string(*side) : "unlimited";
  };
  const AttentionOptions& options = call.options;
  if (options.normalizer != Normalizer::softmax()) add(options.normalizer.to_string());
  if (options.softcap) add(fmt::format("softcap {}", *options.softcap));
  const QueryPosition position = options.query_position();
  if (options.causal)
    add(position.offset ? fmt::format("causal with offset {}", *position.offset)
                        : "causal, bottom-right");
  if (options.window)
    add(fmt::format("window left {}, right {}", limit(options.window->left),
                    limit(options.window->right)));
  const auto add_tensor = [&](const char* name, const TensorView& tensor) {
    if (!tensor.absent())
      add(fmt::format("{} {} {}", name, name_of(tensor.dtype), tensor.shape.to_string()));
  };
  add_tensor("mask", call.tensors.mask);
  add_tensor("alibi", call.tensors.alibi_slopes);
  add_tensor("sinks", call.tensors.sinks);
  add_tensor("kv-lens", call.tensors.kv_lens);
  return text;
}

std::string describe_cache(const Call& call) {
  const std::string pages =
      call.page_size > 0 ? fmt::format(" in pages of {} keys", call.page_size) : "";
  return fmt::format(
      "K and V cached in {}{}; naive has them as given: errors include what the cache costs, and "
      "so does e",
      name_of(*call.kv_dtype), pages);
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
  const AttentionTensors& t = call.tensors;
  fmt::print("Q {}, K {}, V {}, {}\n", t.q.shape.to_string(), t.k.shape.to_string(),
             t.v.shape.to_string(), name_of(call.dtype));
  if (const std::string masks = describe_masks(call); !masks.empty()) fmt::print("{}\n", masks);
  if (call.kv_dtype) fmt::print("{}\n", describe_cache(call));
  fmt::print("{}\n\n", comparison.path);

  std::vector<std::vector<std::string>> rows = {
      {"kernel", "max abs", "max rel", "RMS", "worst", "lse", "time", "speed-up", "scratch"}};
  for (const Measured& measured : comparison.kernels())
    rows.push_back(table_row(measured, comparison));
  print_table(rows);

  fmt::print(
      "\nErrors and speed-up refer to naive. max abs, max rel, RMS and the worst element are those "
      "of O; lse is max abs.\n");
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
  const Dims &q = call.tensors.q.shape, &k = call.tensors.k.shape;
  nlohmann::ordered_json all = {
      {"shape", {q[0], q[1], k[1], q[2], k[2], q[3], call.tensors.v.shape[3]}},
      {"dtype", name_of(call.dtype)},
      {"kv_dtype", name_of(call.kv_dtype.value_or(call.dtype))},
      {"page_size", call.page_size},
      {"threads", comparison.num_threads},
      {"tiled", json_of(comparison.tiled, comparison)},
      {"unfused", nullptr},
      {"naive", json_of(comparison.naive, comparison)},
      {"score_matrix_bytes", comparison.score_matrix},
      {"tolerance", comparison.tolerance.out},
      {"lse_tolerance", nullptr},
      {"derivation", comparison.tolerance.derivation},
      {"path", comparison.path},
      {"within_tolerance", comparison.within_tolerance()}};
  if (comparison.tiled.lse) all["lse_tolerance"] = comparison.tolerance.lse;
  if (comparison.unfused) all["unfused"] = json_of(*comparison.unfused, comparison);
  fmt::print("{}\n", all.dump());
}

int compare(const CompareArguments& arguments) {
  const Call call = arguments.shape ? random_call(arguments.call, *arguments.shape, arguments.seed)
                                    : load_call(arguments.call);
  const Comparison comparison = compare_kernels(call, arguments.tolerance);
  if (arguments.json) {
    print_json(call, comparison);
  } else {
    print_text(call, comparison);
  }
  return comparison.within_tolerance() ? same : different;
}

}  // namespace

void add_compare(CLI::App& app, Command& chosen) {
  const auto [command, arguments] = add_command<CompareArguments>(
      app, chosen, "compare", "tiled, unfused and naive side by side; ends with 1 if they differ",
      [](const CompareArguments& given) {
        return under_option_names(call_option_names, [&] { return compare(given); });
      });
  auto* const shape = add_value(
      command, "--shape B,H,HKV,SQ,SKV,D[,DV]",
      "random inputs instead of files: batch, heads, KV heads, q_len, kv_len, dim and, "
      "if another, dim of V",
      [&shape = arguments.shape](auto option, auto text) { shape = shape_value(option, text); });
  for (CLI::Option* input : add_input_files(command, arguments.call)) shape->excludes(input);
  add_seed(command, arguments.seed, "the seed of the random inputs; default 0")->needs(shape);
  add_call_options(command, arguments.call);
  add_number(command, "--tolerance X", arguments.tolerance, not_negative,
             "largest absolute error of O and of lse that passes; default derived from type and "
             "sizes");
  command.add_flag("--json", arguments.json, "one JSON object instead of the table");
}

}  // namespace attn::apps::demo
