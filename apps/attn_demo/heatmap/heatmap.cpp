// attn_demo heatmap: attention weights as a picture, in a PNG file or in the terminal.
#include <attn/attn.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "apps/attn_demo/call/arguments.hpp"
#include "apps/attn_demo/call/call.hpp"
#include "apps/attn_demo/commands.hpp"
#include "apps/attn_demo/outputs.hpp"
#include "apps/attn_demo/terminal.hpp"
#include "apps/support/options.hpp"
#include "call_weights.hpp"
#include "labels.hpp"
#include "model_weights.hpp"
#include "picture.hpp"
#include "png.hpp"
#include "terminal.hpp"

namespace attn::apps::demo {
namespace {

struct HeatmapArguments {
  CallArguments call;
  std::optional<std::string> model;  // in place of the call
  PromptChoice prompt;
  std::int64_t layer = 0;
  std::int64_t batch = 0;
  std::optional<std::int64_t> head = 0;  // none: all
  std::optional<std::string> labels, tokens, key_labels, title, out;
  ScaleKind scale = ScaleKind::linear;
  bool terminal = false;
};

std::string read_text(const std::string& file) {
  std::error_code ignored;
  std::ifstream stream(file, std::ios::binary);
  if (!stream || !std::filesystem::is_regular_file(file, ignored))
    throw Error(ErrorCode::io, fmt::format("{}: cannot be read", file));
  return {std::istreambuf_iterator<char>(stream), {}};
}

LabelTexts label_texts(const HeatmapArguments& arguments) {
  LabelTexts texts;
  if (arguments.labels) texts = {"--labels", comma_labels(*arguments.labels), {}};
  if (arguments.tokens) texts = {"--tokens", line_labels(read_text(*arguments.tokens)), {}};
  if (arguments.key_labels) texts.key_labels = comma_labels(*arguments.key_labels);
  return texts;
}

void require_place(const char* option, std::int64_t place, std::int64_t count, const char* what) {
  if (place < count) return;
  reject_value(option, fmt::format("{}", place),
               fmt::format("an integer in 0..{}: there are {} {}", count - 1, count, what));
}

/// Checks the whole call, not only the part that is drawn.
void check_call(const Call& call, const HeatmapArguments& arguments) {
  AttentionTensors tensors = call.tensors;
  const Dims& q = tensors.q.shape;
  tensors.out = {nullptr, call.dtype, q};
  const AttentionPlan checks_shapes(tensors, call.options);
  const std::int64_t kv_len = tensors.k.shape[2];
  if (q.product() == 0 || kv_len == 0) {
    throw Error(ErrorCode::invalid_argument,
                fmt::format("q has shape {} and k {}: there are no weights to draw", q.to_string(),
                            tensors.k.shape.to_string()));
  }
  require_place("--batch", arguments.batch, q[0], "batch entries");
  if (arguments.head) require_place("--head", *arguments.head, q[1], "query heads");
  require_room_for_weights(q[2], kv_len, arguments.head ? 1 : q[1]);
}

std::string title_of(const HeatmapArguments& arguments, const std::string& usual) {
  return arguments.title ? readable_title(*arguments.title) : usual;
}

std::vector<WeightMap> weights_of_model(const HeatmapArguments& arguments) {
  std::vector<WeightMap> maps = model_weights({.folder = *arguments.model,
                                               .prompt = arguments.prompt,
                                               .layer = arguments.layer,
                                               .head = arguments.head});
  if (arguments.head) maps.front().title = title_of(arguments, maps.front().title);
  return maps;
}

/// The chosen head, or each of them. Values play no part in weights, so keys stand in for them.
std::vector<WeightMap> weights_of(const HeatmapArguments& arguments) {
  if (arguments.model) return weights_of_model(arguments);
  CallArguments call_arguments = arguments.call;
  call_arguments.v = call_arguments.k;
  const Call call = load_call(call_arguments);
  check_call(call, arguments);
  const Dims& q = call.tensors.q.shape;
  const AxisLabels labels = axis_labels(label_texts(arguments), q[2], call.tensors.k.shape[2]);
  std::vector<WeightMap> maps;
  const auto add = [&](std::int64_t head, const std::string& title) {
    maps.push_back(call_weights(call.tensors, call.options, {arguments.batch, head}));
    maps.back().title = title;
    maps.back().row_labels = labels.rows;
    maps.back().column_labels = labels.columns;
  };
  if (arguments.head) {
    const std::string entry = q[0] > 1 ? fmt::format("batch entry {}, ", arguments.batch) : "";
    add(*arguments.head,
        title_of(arguments, fmt::format("attention weights, {}head {}", entry, *arguments.head)));
  } else {
    for (std::int64_t head = 0; head < q[1]; ++head) add(head, fmt::format("head {}", head));
  }
  return maps;
}

std::string usual_title_of_all(const HeatmapArguments& arguments) {
  return arguments.model ? fmt::format("attention weights, layer {}, all heads", arguments.layer)
                         : "attention weights of all heads";
}

int show(const HeatmapArguments& arguments) {
  if (arguments.out && !arguments.out->ends_with(".png"))
    reject_value("--out", *arguments.out, "a name that ends in .png");
  if (!arguments.head && (arguments.labels || arguments.tokens || arguments.key_labels)) {
    throw Error(ErrorCode::invalid_argument,
                "--head is all: its small pictures have no room for labels");
  }
  const std::vector<WeightMap> maps = weights_of(arguments);
  const ColorScale scale(arguments.scale, maps);
  if (arguments.terminal || !arguments.out) {
    for (const WeightMap& map : maps)
      fmt::print("{}", terminal_map(map, scale, {colored(), terminal_width()}));
    flush_output();
  }
  if (!arguments.out) return 0;
  const Canvas picture =
      arguments.head ? draw_map(maps.front(), scale)
                     : draw_maps(maps, scale, title_of(arguments, usual_title_of_all(arguments)));
  write_file(*arguments.out, png_bytes(picture));
  return 0;
}

void add_label_options(CLI::App& command, HeatmapArguments& arguments) {
  auto* const labels = add_text(command, "--labels FILE", arguments.labels,
                                "of the tokens, with commas between; default: numbers");
  labels->type_name("A,B,C");
  add_text(command, "--tokens FILE", arguments.tokens, "the same from a text file, one a line")
      ->excludes(labels);
  add_text(command, "--key-labels FILE", arguments.key_labels,
           "of the keys, where queries are other tokens")
      ->type_name("A,B,C");
  add_text(command, "--title FILE", arguments.title, "of the picture")->type_name("TEXT");
}

/// A model has masks, scale and labels of its own: options that say something about either a call
/// or a model refuse to be ignored.
void keep_apart(CLI::App& command) {
  constexpr std::array of_models = {"--prompt", "--prompt-ids", "--layer"};
  constexpr std::array of_both = {"--model", "--head",         "--out", "--terminal",
                                  "--title", "--scale-colors", "--help"};
  CLI::Option& model = *command.get_option("--model");
  for (CLI::Option* const option : command.get_options()) {
    const std::string name = option->get_name();
    if (std::find(of_both.begin(), of_both.end(), name) != of_both.end()) continue;
    if (std::find(of_models.begin(), of_models.end(), name) != of_models.end()) {
      option->needs(&model);
    } else {
      model.excludes(option);
    }
  }
}

}  // namespace

void add_heatmap(CLI::App& app, Command& chosen) {
  const auto arguments = std::make_shared<HeatmapArguments>();
  CLI::App& command = *app.add_subcommand(
      "heatmap", "attention weights as a picture, in a PNG file or in the terminal");
  add_query_and_key_files(command, arguments->call);
  add_text(command, "--model FILE", arguments->model,
           "a model's folder in their place, for --prompt or --prompt-ids")
      ->type_name("DIR");
  add_prompt_options(command, arguments->prompt);
  add_value(command, "--layer N", "of the model; default 0", [arguments](auto option, auto text) {
    arguments->layer = integer_value(option, text, {.min = 0});
  });
  add_text(command, "--out FILE", arguments->out,
           "a file that ends in .png; without it the picture is shown in the terminal");
  command.add_flag("--terminal", arguments->terminal, "in the terminal too");
  add_value(command, "--batch N", "which batch entry; default 0",
            [arguments](auto option, auto text) {
              arguments->batch = integer_value(option, text, {.min = 0});
            });
  add_value(command, "--head N", "which query head, or all; default 0",
            [arguments](auto option, auto text) {
              arguments->head = text == "all"
                                    ? std::nullopt
                                    : std::optional(integer_value(option, text, {.min = 0}));
            });
  add_label_options(command, *arguments);
  add_value(command, "--scale-colors KIND", "linear (default) or log",
            [arguments](auto option, auto text) {
              arguments->scale = choice_value<ScaleKind>(
                  option, text, {{"linear", ScaleKind::linear}, {"log", ScaleKind::logarithmic}});
            });
  add_probability_options(command, arguments->call);
  keep_apart(command);
  command.callback([arguments, &chosen] { chosen = [arguments] { return show(*arguments); }; });
}

}  // namespace attn::apps::demo
