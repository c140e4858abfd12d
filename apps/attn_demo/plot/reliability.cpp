// attn_demo plot reliability: accuracy over confidence (Guo et al. 2017), before and after the
// temperature that calibrate finds.
#include <attn/io.hpp>
#include <attn/regression.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "apps/attn_demo/outputs.hpp"
#include "apps/attn_demo/plot/plots.hpp"
#include "apps/attn_demo/regression/files.hpp"
#include "apps/drawing/chart.hpp"
#include "apps/support/options.hpp"

namespace attn::apps::demo {
namespace {

struct ReliabilityArguments {
  std::string logits, target, out;
};

constexpr Ink accuracy_ink{"#2f6fb0"}, too_confident_ink{"#f3b183"}, too_modest_ink{"#a9cdec"},
    share_ink{"#9a9a9a"}, ideal_ink{"#222222", "6 4"};
constexpr double panel_width = 310, panel_height = 260, share_height = 56;

std::int64_t rows_of(const std::vector<CalibrationBin>& bins) {
  std::int64_t rows = 0;
  for (const CalibrationBin& bin : bins) rows += bin.rows;
  return rows;
}

/// Draws the accuracy of each bin as a bar, and in another color what it lacks to the bin's mean
/// confidence, or has above that.
void draw_bins(Svg& svg, Point corner, const std::string& title,
               const std::vector<CalibrationBin>& bins) {
  Panel panel(svg, {corner, panel_width, panel_height}, {"", 0, 1, {}},
              {"accuracy", 0, 1, even_ticks(0, 1, 5, 1)});
  panel.title(title);
  const auto count = static_cast<double>(bins.size());
  for (std::size_t n = 0; n < bins.size(); ++n) {
    const auto& [rows, confidence, accuracy] = bins[n];
    if (rows == 0) continue;
    const double left = static_cast<double>(n) / count, right = static_cast<double>(n + 1) / count;
    panel.box({left, 0}, {right, std::min(accuracy, confidence)}, accuracy_ink);
    panel.box({left, accuracy}, {right, confidence},
              accuracy < confidence ? too_confident_ink : too_modest_ink);
  }
  panel.curve({{0, 0}, {1, 1}}, ideal_ink);
  panel.frame();
}

/// Draws how the rows are spread over the bins, below draw_bins().
void draw_shares(Svg& svg, Point corner, const std::vector<CalibrationBin>& bins) {
  const auto rows = static_cast<double>(rows_of(bins)), count = static_cast<double>(bins.size());
  Panel panel(svg, {{corner.x, corner.y + panel_height + 26}, panel_width, share_height},
              {"confidence (top probability)", 0, 1, even_ticks(0, 1, 5, 1)},
              {"share", 0, 1, {{0, "0"}, {1, "1"}}});
  for (std::size_t n = 0; n < bins.size(); ++n) {
    if (bins[n].rows == 0) continue;
    panel.box({static_cast<double>(n) / count, 0},
              {static_cast<double>(n + 1) / count, static_cast<double>(bins[n].rows) / rows},
              share_ink);
  }
}

std::string picture(const TemperatureCalibration& calibration) {
  Svg svg(820, 460, "reliability before and after temperature scaling");
  const auto draw = [&](double left, const std::string& when,
                        const std::vector<CalibrationBin>& bins) {
    const Point corner{left, 44};
    draw_bins(svg, corner, fmt::format("{}: ECE {:.3f}", when, expected_calibration_error(bins)),
              bins);
    draw_shares(svg, corner, bins);
  };
  draw(75, "before", calibration.bins_before);
  draw(490, fmt::format("after, T = {:.3g}", calibration.temperature), calibration.bins_after);
  draw_legend(svg, {80, 48}, Sample::bar,
              {{accuracy_ink, "accuracy"},
               {too_confident_ink, "too confident"},
               {too_modest_ink, "too modest"}});
  return svg.finish();
}

int plot(const ReliabilityArguments& arguments) {
  require_suffix("--out", arguments.out, ".svg");
  const Tensor logits = read_tensor(arguments.logits), target = read_integers(arguments.target);
  write_bytes(arguments.out, picture(calibrate_temperature(logits.view(), target.view())));
  return 0;
}

}  // namespace

void add_reliability_plot(CLI::App& plot_command, Command& chosen) {
  const auto [command, arguments] = add_command<ReliabilityArguments>(
      plot_command, chosen, "reliability",
      "accuracy over confidence, before and after temperature scaling",
      [](const ReliabilityArguments& given) {
        return under_option_names(regression_option_names, [&] { return plot(given); });
      });
  add_file(command, "--out FILE", arguments.out, "a file that ends in .svg")->required();
  add_file(command, "--logits FILE", arguments.logits, "[N, C] of f16, bf16, f32 or f64")
      ->required();
  add_file(command, "--target FILE", arguments.target, "the class of each row, integers [N]")
      ->required();
}

}  // namespace attn::apps::demo
