// attn_demo layers: a stack of transformer layers, its attention by each kernel, and where the time goes.
#include <attn/attn.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <memory>

#include "arguments.hpp"
#include "commands.hpp"
#include "layers_measured.hpp"
#include "model.hpp"
#include "text.hpp"

namespace attn::demo {
namespace {

struct LayersArguments {
  ModelChoice model;
  LayersRun run;
  bool json = false;
};

using Part = std::pair<const char*, ForwardTimes::Duration ForwardTimes::*>;
constexpr Part parts[] = {{"projections", &ForwardTimes::projections},
                          {"attention", &ForwardTimes::attention},
                          {"cache, rope", &ForwardTimes::cache},
                          {"MLP", &ForwardTimes::mlp},
                          {"norms", &ForwardTimes::norms},
                          {"embedding", &ForwardTimes::embedding},
                          {"logits", &ForwardTimes::output}};

std::string percent(double share) { return fmt::format("{:.0f} %", 100 * share); }

void print_model(const Model& model, const LayersRun& run, const LayersMeasured& measured) {
  const AttentionSettings& attention = model.settings.layer.attention;
  fmt::print("{}\n", model.description);
  fmt::print("{} layers, hidden {}, {} heads of {} on {} KV heads, MLP {}, vocabulary {}, {}\n", model.settings.num_layers,
             attention.hidden, attention.num_q_heads, attention.head_dim, attention.num_kv_heads, model.settings.layer.mlp_width,
             model.settings.vocab_size, name_of(attention.dtype));
  fmt::print("batch {}, {} tokens of prompt, {} threads, {}\n\n", run.batch, run.seq, measured.num_threads, name_of(measured.isa));
}

void print_distances(const LayersMeasured& measured) {
  std::vector<std::vector<std::string>> rows = {{"behind layer", "tiled max abs", "RMS", "unfused max abs", "RMS", "RMS of x"}};
  for (std::size_t n = 0; n < measured.layers.size(); ++n) {
    const LayerDistance& layer = measured.layers[n];
    rows.push_back({std::to_string(n), format_error(layer.tiled.max_abs), format_error(layer.tiled.rms),
                    format_error(layer.unfused.max_abs), format_error(layer.unfused.rms), fmt::format("{:.2f}", layer.rms)});
  }
  print_table(rows);
  fmt::print("\nDistance of the residual stream x from that of a stack whose attention is naive: textbook, in double.\n\n");
}

void print_times(const LayersMeasured& measured) {
  std::vector<std::vector<std::string>> rows = {{"time", "prefill", "", "decode step", ""}};
  const auto share = [](double part, double whole) { return percent(whole > 0 ? part / whole : 0); };
  for (const auto& [name, part] : parts) {
    const double prefill = seconds(measured.prefill.times.*part), decode = seconds(measured.decode.times.*part);
    rows.push_back({name, format_seconds(prefill), share(prefill, measured.prefill.seconds), format_seconds(decode),
                    share(decode, measured.decode.seconds)});
  }
  rows.push_back({"whole forward", format_seconds(measured.prefill.seconds), "", format_seconds(measured.decode.seconds), ""});
  print_table(rows);
}

void print_speed(const LayersMeasured& m) {
  fmt::print("\nprefill  {:.0f} tokens/s, {:.1f} GFLOP/s, {} of the multiply-add peak ({:.0f} GFLOP/s)\n", m.prefill.tokens_per_second,
             m.prefill_gflops, percent(m.prefill_gflops / m.peak_gflops), m.peak_gflops);
  fmt::print("decode   {:.1f} tokens/s, {} of weights and cache read a step: {:.1f} GB/s, {} of reading alone ({:.1f} GB/s)\n",
             m.decode.tokens_per_second, format_bytes(m.decode_bytes), m.decode_gbps, percent(m.decode_gbps / m.read_gbps), m.read_gbps);
  fmt::print("whole forward of prefill with attention unfused: {}; naive: {}\n", format_seconds(m.unfused_seconds),
             format_seconds(m.naive_seconds));
  fmt::print("\nmemory   weights packed {}, in place {}, KV cache {}, activations {}\n", format_bytes(m.packed_bytes),
             format_bytes(m.in_place_bytes), format_bytes(m.cache_bytes), format_bytes(m.activation_bytes));
}

nlohmann::ordered_json json_of(const Phase& phase) {
  nlohmann::ordered_json times;
  for (const auto& [name, part] : parts) times[name] = seconds(phase.times.*part) * 1e3;
  return {{"ms", phase.seconds * 1e3}, {"tokens_per_second", phase.tokens_per_second}, {"parts_ms", times}};
}

nlohmann::ordered_json json_of(const Errors& errors) { return {{"max_abs", errors.max_abs}, {"rms", errors.rms}}; }

void print_json(const Model& model, const LayersRun& run, const LayersMeasured& m) {
  const AttentionSettings& attention = model.settings.layer.attention;
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const LayerDistance& layer : m.layers) {
    layers.push_back({{"tiled", json_of(layer.tiled)}, {"unfused", json_of(layer.unfused)}, {"rms_of_x", layer.rms}});
  }
  nlohmann::ordered_json prefill = json_of(m.prefill), decode = json_of(m.decode);
  prefill.update({{"gflops", m.prefill_gflops},
                  {"peak_gflops", m.peak_gflops},
                  {"fraction_of_peak", m.prefill_gflops / m.peak_gflops},
                  {"unfused_ms", m.unfused_seconds * 1e3},
                  {"naive_ms", m.naive_seconds * 1e3}});
  decode.update(
      {{"bytes", m.decode_bytes}, {"gbps", m.decode_gbps}, {"read_gbps", m.read_gbps}, {"fraction_of_read", m.decode_gbps / m.read_gbps}});
  const nlohmann::ordered_json all = {{"model", model.description},
                                      {"num_layers", model.settings.num_layers},
                                      {"hidden", attention.hidden},
                                      {"num_q_heads", attention.num_q_heads},
                                      {"num_kv_heads", attention.num_kv_heads},
                                      {"head_dim", attention.head_dim},
                                      {"mlp_width", model.settings.layer.mlp_width},
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
  fmt::print("{}\n", all.dump());
}

int run_layers(LayersArguments arguments) {
  arguments.model.max_positions = arguments.run.positions();
  Model model = load_model(arguments.model);
  const LayersMeasured measured = measure_layers(model, arguments.run);
  if (arguments.json) {
    print_json(model, arguments.run, measured);
    return 0;
  }
  print_model(model, arguments.run, measured);
  print_distances(measured);
  print_times(measured);
  print_speed(measured);
  return 0;
}

}  // namespace

void add_layers(CLI::App& app, Command& chosen) {
  const auto arguments = std::make_shared<LayersArguments>();
  CLI::App& command = *app.add_subcommand("layers", "transformer layers: how far the kernels are apart, and where the time goes");
  add_model_options(command, arguments->model);
  constexpr std::int64_t most = std::int64_t{1} << 20;
  const auto add_integer = [&](const std::string& name, std::int64_t& value, const char* help) {
    command
        .add_option_function<std::string>(
            name, [name, &value](const std::string& text) { value = integer_value(name, text, 1, most); }, help)
        ->type_name("N");
  };
  add_integer("--seq", arguments->run.seq, "tokens of the prompt; default 256");
  add_integer("--batch", arguments->run.batch, "sequences; default 1");
  command.add_option_function<std::string>(
      "--min-time", [arguments](const std::string& text) { arguments->run.min_time = number_value("--min-time", text); },
      "seconds to time prefill and decode for, each; default 0.5");
  command.add_flag("--json", arguments->json, "one JSON object instead of the tables");
  command.callback([arguments, &chosen] { chosen = [arguments] { return run_layers(*arguments); }; });
}

}  // namespace attn::demo
