// attn_demo heatmap: attention probabilities as a picture, in a PNG file or in the terminal.
#include <attn/attn.hpp>
#include <attn/io.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
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
#include "apps/support/program.hpp"
#include "head_maps.hpp"
#include "labels.hpp"
#include "picture.hpp"
#include "terminal.hpp"

namespace attn::apps::demo {
namespace {

struct HeatmapArguments {
  CallArguments call;
  ModelLayer model;  // if it has a folder, there is no call
  HeadChoice heads;
  std::optional<std::string> labels, tokens, key_labels, title, out;
  ScaleKind scale = ScaleKind::linear;
  bool terminal = false;
};

std::string read_text(const std::string& file) {
  std::error_code ignored;
  std::ifstream stream(file, std::ios::binary);
  if (!stream || !std::filesystem::is_regular_file(file, ignored))
    throw Error(ErrorCode::io, fmt::format("--tokens: {} cannot be read", file));
  return {std::istreambuf_iterator<char>(stream), {}};
}

LabelTexts label_texts(const HeatmapArguments& arguments) {
  LabelTexts texts;
  if (arguments.labels) texts = {"--labels", comma_labels(*arguments.labels), {}};
  if (arguments.tokens) texts = {"--tokens", line_labels(read_text(*arguments.tokens)), {}};
  if (arguments.key_labels) texts.key_labels = comma_labels(*arguments.key_labels);
  return texts;
}

/// Checks the whole call, also the part that is not drawn.
void check_call(const Call& call, const HeatmapArguments& arguments) {
  AttentionTensors tensors = call.tensors;
  const Dims& q = tensors.q.shape;
  tensors.out = {nullptr, call.dtype, q};
  const AttentionPlan checks_shapes(tensors, call.options);
  const std::int64_t kv_len = tensors.k.shape[2];
  if (q.product() == 0 || kv_len == 0) {
    reject("q has shape {} and k {}: there are no probabilities to draw", q.to_string(),
           tensors.k.shape.to_string());
  }
  const HeadChoice& heads = arguments.heads;
  require_place("--batch", heads.batch, q[0], "there are {} batch entries");
  if (heads.head) require_place("--head", *heads.head, q[1], "there are {} query heads");
  require_room_for_maps(heads, q[1], q[2], kv_len);
}

/// The maps of the chosen heads. Probabilities do not depend on V, so K is passed as V.
std::vector<ProbabilityMap> maps_of(const HeatmapArguments& arguments) {
  if (arguments.model.folder) return layer_maps(arguments.model, arguments.heads);
  CallArguments call_arguments = arguments.call;
  call_arguments.v = call_arguments.k;
  const Call call = load_call(call_arguments);
  check_call(call, arguments);
  const Dims& q = call.tensors.q.shape;
  const AxisLabels labels = axis_labels(label_texts(arguments), q[2], call.tensors.k.shape[2]);
  const std::string entry = q[0] > 1 ? fmt::format("batch entry {}, ", arguments.heads.batch) : "";
  return head_maps(call.tensors, call.options, arguments.heads, labels, entry);
}

Canvas picture_of(const std::vector<ProbabilityMap>& maps, const ColorScale& scale,
                  const HeatmapArguments& arguments) {
  if (arguments.heads.head) return draw_map(maps.front(), scale);
  const std::string usual =
      arguments.model.folder
          ? fmt::format("attention probabilities, layer {}, all heads", arguments.model.layer)
          : "attention probabilities of all heads";
  return draw_maps(maps, scale, arguments.title ? readable_title(*arguments.title) : usual);
}

int show(const HeatmapArguments& arguments) {
  if (arguments.out) require_suffix("--out", *arguments.out, ".png");
  if (!arguments.heads.head && (arguments.labels || arguments.tokens || arguments.key_labels)) {
    reject("--head is all: its small pictures have no room for labels");
  }
  std::vector<ProbabilityMap> maps = maps_of(arguments);
  if (arguments.heads.head && arguments.title)
    maps.front().title = readable_title(*arguments.title);
  const ColorScale scale(arguments.scale, maps);
  if (arguments.terminal || !arguments.out) {
    for (const ProbabilityMap& map : maps)
      fmt::print("{}", terminal_map(map, scale, {colored(), terminal_width()}));
    flush_output();
  }
  if (!arguments.out) return 0;
  write_bytes(*arguments.out, png_bytes(picture_of(maps, scale, arguments)));
  return 0;
}

/// Empty for all heads.
std::optional<std::int64_t> head_value(const std::string& option, const std::string& text) {
  if (text == "all") return std::nullopt;
  const std::string needed = fmt::format("all or an integer in 0..{}", IntegerRange().max);
  const std::vector<std::int64_t> heads = integers_value(option, text, needed);
  if (heads.size() != 1 || heads[0] < 0) reject_value(option, text, needed);
  return heads[0];
}

void add_label_options(CLI::App& command, HeatmapArguments& arguments) {
  auto* const labels = add_text(command, "--labels A,B,C", arguments.labels,
                                "labels of the tokens, with commas between; default: numbers");
  add_file(command, "--tokens FILE", arguments.tokens,
           "labels of the tokens from a text file, one a line")
      ->excludes(labels);
  add_text(command, "--key-labels A,B,C", arguments.key_labels,
           "labels of the keys, if the queries are other tokens");
  add_text(command, "--title TEXT", arguments.title, "the title of the picture");
}

/// A model has its own masks, scale and labels. An option that belongs to calls only is refused
/// together with --model, and one that belongs to models only without it, so that none is ignored.
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
  const auto [command, arguments] = add_command<HeatmapArguments>(
      app, chosen, "heatmap",
      "attention probabilities as a picture, in a PNG file or in the terminal",
      [](const HeatmapArguments& given) {
        return under_option_names(call_option_names, [&] { return show(given); });
      });
  add_query_and_key_files(command, arguments.call);
  add_file(command, "--model DIR", arguments.model.folder,
           "a model's folder instead of --q and --k, for --prompt or --prompt-ids");
  add_prompt_options(command, arguments.model.prompt);
  const IntegerRange at_least_0{.min = 0};
  add_integer(command, "--layer N", arguments.model.layer, at_least_0,
              "which layer of the model; default 0");
  set_help_group(command, "Inputs");
  add_file(command, "--out FILE", arguments.out,
           "a file that ends in .png; without it the picture is shown in the terminal");
  command.add_flag("--terminal", arguments.terminal, "show the picture in the terminal too");
  add_integer(command, "--batch N", arguments.heads.batch, at_least_0,
              "which batch entry; default 0");
  add_value(
      command, "--head N", "which query head, or all; default 0",
      [&head = arguments.heads.head](auto option, auto text) { head = head_value(option, text); });
  add_label_options(command, arguments);
  add_choice(command, "--scale-colors KIND", arguments.scale,
             {{"linear", ScaleKind::linear}, {"log", ScaleKind::logarithmic}},
             "linear (default) or log");
  set_help_group(command, "Picture");
  add_probability_options(command, arguments.call);
  keep_apart(command);
}

}  // namespace attn::apps::demo
