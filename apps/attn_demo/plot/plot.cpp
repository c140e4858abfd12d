// attn_demo plot: pictures of the softmax family.
#include <attn/attn.hpp>
#include <attn/io.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>

#include "apps/attn_demo/call/arguments.hpp"
#include "apps/attn_demo/call/call.hpp"
#include "apps/attn_demo/commands.hpp"
#include "apps/attn_demo/outputs.hpp"
#include "apps/attn_demo/plot/plots.hpp"
#include "apps/drawing/chart.hpp"
#include "apps/support/options.hpp"

namespace attn::apps::demo {
namespace {

struct PlotArguments {
  std::optional<std::string> out, logits;
};

/// The baseline ISA makes the picture the same on every machine; other ISAs differ in the last
/// bits.
constexpr Execution reproducible{.num_threads = 1, .isa = Isa::baseline};

using Normalizer = std::function<void(const TensorView& x, const MutableTensorView& y)>;

/// One of the curves or sets of bars. Their colors go from dark to pale, so that they differ
/// without color too.
struct Series {
  std::string name;
  Ink ink;
  Normalizer normalize;
};

std::vector<Series> temperatures() {
  const auto at = [](float temperature) {
    return [temperature](const TensorView& x, const MutableTensorView& y) {
      softmax(x, y, -1, temperature, reproducible);
    };
  };
  return {{"T = 0.25", {"#0b2c5f"}, at(0.25f)},
          {"T = 0.5", {"#2f6fb0"}, at(0.5f)},
          {"T = 1", {"#86b9dd"}, at(1)},
          {"T = 4", {"#dcebf6"}, at(4)}};
}

std::vector<Series> normalizers() {
  return {{"softmax", {"#1f2f6b"}, [](auto& x, auto& y) { softmax(x, y, -1, 1, reproducible); }},
          {"entmax15",
           {"#d9661f", "9 4"},
           [](auto& x, auto& y) { entmax15(x, y, -1, {}, reproducible); }},
          {"sparsemax", {"#62bda5", "3 3"}, [](auto& x, auto& y) {
             sparsemax(x, y, -1, {}, reproducible);
           }}};
}

std::vector<float> example_logits() {
  return {2.f, 1.6f, 1.1f, 0.7f, 0.4f, 0.f, -0.3f, -0.8f, -1.4f, -2.f};
}

std::vector<float> read_logits(const std::optional<std::string>& file) {
  if (!file) return example_logits();
  constexpr std::int64_t most = 16;
  const Tensor tensor = read_floats("--logits", *file, DType::f32);
  const Dims& shape = tensor.shape();
  if (shape.rank() != 1 || shape[0] < 2 || shape[0] > most) {
    reject_value("--logits", *file,
                 fmt::format("rank 1 with 2 to {} logits to be legible; it has shape {}", most,
                             shape.to_string()));
  }
  const float* const values = tensor.data<float>();
  if (!std::all_of(values, values + shape[0], [](float value) { return std::isfinite(value); })) {
    reject_value("--logits", *file, "finite numbers");
  }
  return {values, values + shape[0]};
}

std::vector<float> normalized(const Series& series, const std::vector<float>& x) {
  std::vector<float> y(x.size());
  const auto size = static_cast<std::int64_t>(x.size());
  series.normalize({x.data(), {size}}, {y.data(), {size}});
  return y;
}

/// Draws a group of bars for each logit, with one bar for each series.
void draw_bars(Svg& svg, const Area& area, const std::vector<Series>& all,
               const std::vector<float>& logits) {
  std::vector<std::vector<float>> heights;
  float greatest = 0;
  for (const Series& series : all) {
    heights.push_back(normalized(series, logits));
    greatest = std::max(greatest, *std::max_element(heights.back().begin(), heights.back().end()));
  }
  const int steps =
      std::max(1, static_cast<int>(std::ceil(static_cast<double>(greatest) * 5)));  // of 0.2
  const auto count = static_cast<double>(logits.size());
  Axis x{"logit of each class", -0.5, count - 0.5, {}},
      y{"probability", 0, 0.2 * steps, even_ticks(0, 0.2 * steps, steps, 1)};
  for (std::size_t n = 0; n < logits.size(); ++n)
    x.ticks.emplace_back(static_cast<double>(n), fmt::format("{:.3g}", logits[n]));
  Panel panel(svg, area, x, y);
  constexpr double group = 0.84;  // share of a class's place that bars fill
  const double bar = group / static_cast<double>(all.size());
  for (std::size_t n = 0; n < logits.size(); ++n) {
    for (std::size_t series = 0; series < all.size(); ++series) {
      const double left = static_cast<double>(n) - group / 2 + bar * static_cast<double>(series);
      panel.bar(left, left + bar, static_cast<double>(heights[series][n]), all[series].ink);
    }
  }
}

std::vector<std::pair<Ink, std::string>> legend_of(const std::vector<Series>& all) {
  std::vector<std::pair<Ink, std::string>> entries;
  entries.reserve(all.size());
  for (const Series& series : all) entries.emplace_back(series.ink, series.name);
  return entries;
}

constexpr double page_width = 800;
/// Coordinates are rounded to tenths of a pixel. Sparsemax's step between two points of a curve is
/// 1/40 of this height, a whole number of tenths, so the last bit of a probability does not show.
constexpr double panel_height = 288;

std::string temperature_picture(const std::vector<float>& logits) {
  Svg svg(page_width, 400, "softmax of the same logits at four temperatures");
  svg.text({page_width / 2, 26}, "softmax(x / T) of the same logits", Anchor::middle, 15);
  draw_bars(svg, {{70, 50}, 700, panel_height}, temperatures(), logits);
  draw_legend(svg, {640, 60}, Sample::bar, legend_of(temperatures()));
  return svg.finish();
}

/// Draws the first of two probabilities as a function of t, for the logits t and 0.
void draw_two_classes(Svg& svg, const Area& area) {
  constexpr double reach = 3;
  constexpr int points = 120;
  Panel panel(svg, area, {"t", -reach, reach, even_ticks(-reach, reach, 6, 0)},
              {"probability", 0, 1, even_ticks(0, 1, 5, 1)});
  panel.title("the first of two classes, logits [t, 0]");
  for (const Series& series : normalizers()) {
    std::vector<Point> curve;
    for (int n = 0; n <= points; ++n) {
      const double t = reach * (2. * n / points - 1);
      curve.push_back({t, static_cast<double>(normalized(series, {static_cast<float>(t), 0})[0])});
    }
    panel.curve(curve, series.ink);
  }
}

std::string sparsity_picture(const std::vector<float>& logits) {
  Svg svg(page_width, 400, "softmax, entmax15 and sparsemax of the same logits");
  draw_two_classes(svg, {{65, 50}, 250, panel_height});
  constexpr double left = 400;
  draw_bars(svg, {{left, 50}, 385, panel_height}, normalizers(), logits);
  svg.text({left + 385. / 2, 36}, fmt::format("{} classes; 0 is exactly 0", logits.size()),
           Anchor::middle, 14);
  draw_legend(svg, {70, 54}, Sample::curve, legend_of(normalizers()));
  draw_legend(svg, {655, 60}, Sample::bar, legend_of(normalizers()));
  return svg.finish();
}

int plot(const PlotArguments& arguments, std::string (*picture)(const std::vector<float>& logits)) {
  require_suffix("--out", *arguments.out, ".svg");
  write_bytes(*arguments.out, picture(read_logits(arguments.logits)));
  return 0;
}

}  // namespace

void add_plot(CLI::App& app, Command& chosen) {
  struct Plot {
    const char* name;
    const char* description;
    std::string (*picture)(const std::vector<float>& logits);
  };
  CLI::App& command = *app.add_subcommand(
      "plot", "pictures of the softmax family and of softmax regression, as SVG");
  for (const Plot& each :
       {Plot{"temperature", "softmax of the same logits at four temperatures", temperature_picture},
        Plot{"sparsity", "softmax, entmax15 and sparsemax of the same logits", sparsity_picture}}) {
    const auto [own, arguments] = add_command<PlotArguments>(
        command, chosen, each.name, each.description,
        [picture = each.picture](const PlotArguments& given) { return plot(given, picture); });
    add_file(own, "--out FILE", arguments.out, "a file that ends in .svg")->required();
    add_file(own, "--logits FILE", arguments.logits,
             "2 to 16 logits, rank 1; default: ten from 2 to -2");
  }
  add_regions_plot(command, chosen);
  add_reliability_plot(command, chosen);
}

}  // namespace attn::apps::demo
