// attn_demo layers: runs transformer layers with each attention kernel, and shows the errors and
// the time that each part takes.
#include <attn/attn.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <optional>

#include "apps/attn_demo/call/arguments.hpp"
#include "apps/attn_demo/commands.hpp"
#include "apps/attn_demo/models/model.hpp"
#include "apps/attn_demo/terminal.hpp"
#include "apps/support/options.hpp"
#include "measure.hpp"

namespace attn::apps::demo {
namespace {

constexpr std::int64_t largest_run = std::int64_t{1} << 20;  // tokens or sequences

struct LayersArguments {
  ModelChoice model;
  std::optional<std::int64_t> seq;  // default: LayersRun's, or as much as the model has room for
  LayersRun run;
  bool json = false;
};

struct Part {
  const char* name;
  const char* key;  // its name in JSON
  ForwardTimes::Duration ForwardTimes::*time;
};
constexpr Part parts[] = {{"q, k, v, out projections", "projections", &ForwardTimes::projections},
                          {"attention", "attention", &ForwardTimes::attention},
                          {"cache, rope, norms of q and k", "cache", &ForwardTimes::cache},
                          {"MLP", "mlp", &ForwardTimes::mlp},
                          {"norms", "norms", &ForwardTimes::norms},
                          {"embedding", "embedding", &ForwardTimes::embedding},
                          {"logits", "logits", &ForwardTimes::output}};

/// The time of a forward pass that belongs to none of its parts.
double rest(const Phase& phase) {
  double sum = 0;
  for (const Part& part : parts) sum += seconds(phase.times.*part.time);
  return std::max(0.0, phase.seconds - sum);
}

std::string percent(double share) { return fmt::format("{:.0f} %", 100 * share); }

void print_model(const Model& model, const LayersRun& run, const LayersMeasured& measured) {
  const AttentionSettings& attention = model.settings.layers.front().attention;
  fmt::print("{}\n", model.description);
  fmt::print("{} layers, hidden {}, {} heads of {} on {} KV heads, MLP {}, vocabulary {}, {}\n",
             model.settings.layers.size(), attention.hidden, attention.num_q_heads,
             attention.head_dim, attention.num_kv_heads, model.settings.layers.front().mlp_width,
             model.settings.vocab_size, name_of(attention.dtype));
  fmt::print("batch {}, {} tokens of prompt, {}, {}\n\n", run.batch, run.seq,
             format_threads(measured.num_threads), name_of(measured.isa));
}

void print_distances(const LayersMeasured& measured) {
  std::vector<std::vector<std::string>> rows = {
      {"layer", "tiled: max abs", "tiled: RMS", "unfused: max abs", "unfused: RMS", "RMS of x"}};
  for (std::size_t n = 0; n < measured.layers.size(); ++n) {
    const LayerDistance& layer = measured.layers[n];
    rows.push_back({std::to_string(n), format_error(layer.tiled.max_abs),
                    format_error(layer.tiled.rms), format_error(layer.unfused.max_abs),
                    format_error(layer.unfused.rms), fmt::format("{:.2f}", layer.rms)});
  }
  print_table(rows);
  fmt::print(
      "\nx is the residual stream behind a layer. Errors are its differences from x of the same "
      "model with\n"
      "naive attention (textbook, in double) in all layers; everything else is the same. They add "
      "up from\n"
      "layer to layer.\n\n");
}

void print_times(const LayersMeasured& measured) {
  std::vector<std::vector<std::string>> rows = {
      {"time of", "prefill", "share", "decode step", "share"}};
  const auto add = [&](const char* name, double prefill, double decode) {
    rows.push_back({name, format_seconds(prefill), percent(prefill / measured.prefill.seconds),
                    format_seconds(decode), percent(decode / measured.decode.seconds)});
  };
  for (const Part& part : parts)
    add(part.name, seconds(measured.prefill.times.*part.time),
        seconds(measured.decode.times.*part.time));
  add("rest", rest(measured.prefill), rest(measured.decode));
  add("whole forward", measured.prefill.seconds, measured.decode.seconds);
  print_table(rows);
  fmt::print("\nOf the forward of median time, with tiled attention.\n");
}

void print_speed(const LayersMeasured& m) {
  fmt::print(
      "\nprefill  {:.0f} tokens/s, {:.1f} GFLOP/s, {} of the multiply-add peak measured here "
      "({:.0f} GFLOP/s)\n",
      m.prefill.tokens_per_second, m.prefill_gflops, percent(m.prefill_gflops / m.peak_gflops),
      m.peak_gflops);
  fmt::print(
      "decode   {:.1f} tokens/s; a step reads {} of weights and cache, at {:.1f} GB/s:\n"
      "         {} of what reading memory reaches here ({:.1f} GB/s){}\n",
      m.decode.tokens_per_second, format_bytes(m.decode_bytes), m.decode_gbps,
      percent(m.decode_gbps / m.read_gbps), m.read_gbps,
      m.decode_gbps > m.read_gbps ? ", more than a plain loop reads from memory" : "");
  fmt::print("prefill with unfused attention takes {}, with naive attention {} (one run each)\n",
             format_seconds(m.unfused_seconds), format_seconds(m.naive_seconds));
  fmt::print("\nmemory   weights packed {}, in place {}, KV cache {}, scratch {}\n",
             format_bytes(m.packed_bytes), format_bytes(m.in_place_bytes),
             format_bytes(m.cache_bytes), format_bytes(m.activation_bytes));
}

nlohmann::ordered_json json_of(const Phase& phase) {
  nlohmann::ordered_json times;
  for (const Part& part : parts) times[part.key] = seconds(phase.times.*part.time) * 1e3;
  times["rest"] = rest(phase) * 1e3;
  return {{"ms", phase.seconds * 1e3},
          {"tokens_per_second", phase.tokens_per_second},
          {"parts_ms", times}};
}

nlohmann::ordered_json json_of(const Errors& errors) {
  return {{"max_abs", errors.max_abs}, {"rms", errors.rms}};
}

void print_json(const Model& model, const LayersRun& run, const LayersMeasured& m) {
  const AttentionSettings& attention = model.settings.layers.front().attention;
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const LayerDistance& layer : m.layers) {
    layers.push_back({{"tiled", json_of(layer.tiled)},
                      {"unfused", json_of(layer.unfused)},
                      {"rms_of_x", layer.rms}});
  }
  nlohmann::ordered_json prefill = json_of(m.prefill), decode = json_of(m.decode);
  prefill.update({{"gflops", m.prefill_gflops},
                  {"peak_gflops", m.peak_gflops},
                  {"fraction_of_peak", m.prefill_gflops / m.peak_gflops},
                  {"unfused_ms", m.unfused_seconds * 1e3},
                  {"naive_ms", m.naive_seconds * 1e3}});
  decode.update({{"bytes", m.decode_bytes},
                 {"gbps", m.decode_gbps},
                 {"read_gbps", m.read_gbps},
                 {"fraction_of_read", m.decode_gbps / m.read_gbps}});
  const nlohmann::ordered_json all = {{"model", model.description},
                                      {"num_layers", model.settings.layers.size()},
                                      {"hidden", attention.hidden},
                                      {"num_q_heads", attention.num_q_heads},
                                      {"num_kv_heads", attention.num_kv_heads},
                                      {"head_dim", attention.head_dim},
                                      {"mlp_width", model.settings.layers.front().mlp_width},
                                      {"vocab_size", model.settings.vocab_size},
                                      {"dtype", name_of(attention.dtype)},
                                      {"batch", run.batch},
                                      {"seq", run.seq},
                                      {"threads", m.num_threads},
                                      {"isa", name_of(m.isa)},
                                      {"layers", layers},
                                      {"prefill", prefill},
                                      {"decode", decode},
                                      {"memory",
                                       {{"packed_bytes", m.packed_bytes},
                                        {"in_place_bytes", m.in_place_bytes},
                                        {"cache_bytes", m.cache_bytes},
                                        {"activation_bytes", m.activation_bytes}}}};
  // The name of a folder may have bytes that are not UTF-8.
  fmt::print("{}\n", all.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

int run_layers(const LayersArguments& arguments) {
  const ModelSource source(arguments.model);
  LayersRun run = arguments.run;
  run.seq = arguments.seq.value_or(
      std::clamp<std::int64_t>(source.most_positions() - LayersRun::decode_steps, 1, run.seq));
  Model model = source.load(run.positions(), run.batch);
  const LayersMeasured measured = measure_layers(model, run);
  if (arguments.json) {
    print_json(model, run, measured);
    return 0;
  }
  print_model(model, run, measured);
  print_distances(measured);
  print_times(measured);
  print_speed(measured);
  return 0;
}

}  // namespace

void add_layers(CLI::App& app, Command& chosen) {
  const auto [command, arguments] = add_command<LayersArguments>(
      app, chosen, "layers",
      "transformer layers: how far the kernels are apart, and where the time goes", run_layers);
  add_model_options(command, arguments.model);
  add_seed(command, arguments.model.toy.seed, "the seed of random weights; default 0")
      ->excludes(command.get_option("--model"));
  add_integer(command, "--seq N", arguments.seq, {1, largest_run},
              "tokens of the prompt; default 256, or what the model has room for");
  add_integer(command, "--batch N", arguments.run.batch, {1, largest_run}, "sequences; default 1");
  add_number(command, "--min-time S", arguments.run.min_time, not_negative,
             "seconds to time prefill and decode for, each; default 0.5");
  command.add_flag("--json", arguments.json, "one JSON object instead of the tables");
}

}  // namespace attn::apps::demo
