// attn_demo plot regions: which class a model of two features finds where, and the rows that it was
// fitted to.
#include <attn/io.hpp>
#include <attn/regression.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "apps/attn_demo/outputs.hpp"
#include "apps/attn_demo/plot/plots.hpp"
#include "apps/attn_demo/regression/files.hpp"
#include "apps/drawing/chart.hpp"
#include "apps/support/options.hpp"

namespace attn::apps::demo {
namespace {

struct RegionsArguments {
  std::string model, input, target, out;
};

/// The colors of a class: of its region, of the part where it is probable, and of its rows.
struct ClassInks {
  Ink region, core, row;
};
constexpr std::array<ClassInks, 6> inks = {{{{"#e3edf7"}, {"#c3d9ee"}, {"#1f5fa8"}},
                                            {{"#fdeadd"}, {"#fad0b3"}, {"#d9661f"}},
                                            {{"#e2f3ee"}, {"#bfe4d8"}, {"#2a8f74"}},
                                            {{"#f0e6f5"}, {"#dcc4e8"}, {"#7d3fa0"}},
                                            {{"#fbf3d3"}, {"#f3e19b"}, {"#a98300"}},
                                            {{"#f8e0e6"}, {"#efb9c8"}, {"#b8264f"}}}};
constexpr double core = 0.9;  // the probability inside the darker part

Svg::Marker marker_of(std::size_t of_class) {
  constexpr std::array markers = {Svg::Marker::circle, Svg::Marker::square, Svg::Marker::triangle};
  return markers[of_class % markers.size()];
}

std::size_t index(std::int64_t n) { return static_cast<std::size_t>(n); }

/// Rows of two features, and what a model says of them.
struct Rows {
  std::vector<Point> points;
  std::vector<double> probabilities;  // [rows][classes]

  Rows(const SoftmaxRegression& model, std::vector<Point> at)
      : points(std::move(at)), probabilities(points.size() * index(model.classes())) {
    static_assert(sizeof(Point) == 2 * sizeof(double));
    const auto count = static_cast<std::int64_t>(points.size());
    model.predict(TensorView(&points.data()->x, {count, 2}),
                  MutableTensorView(probabilities.data(), {count, model.classes()}), 1,
                  {.num_threads = 1});
  }
};

/// The part of a polygon where a x + b y + c >= 0.
std::vector<Point> cut(const std::vector<Point>& polygon, double a, double b, double c) {
  const auto side = [&](const Point& point) { return a * point.x + b * point.y + c; };
  std::vector<Point> kept;
  for (std::size_t n = 0; n < polygon.size(); ++n) {
    const Point &from = polygon[n], &to = polygon[(n + 1) % polygon.size()];
    const double before = side(from), after = side(to);
    if (before >= 0) kept.push_back(from);
    if ((before > 0 && after < 0) || (before < 0 && after > 0)) {
      const double share = before / (before - after);
      kept.push_back({from.x + share * (to.x - from.x), from.y + share * (to.y - from.y)});
    }
  }
  return kept;
}

/// Where the logit of a class is the greatest: a polygon, since logits are linear.
std::vector<Point> region_of(const SoftmaxRegression& model, std::int64_t of_class,
                             const Panel& panel) {
  const Tensor weight = copy_as(model.weight(), DType::f64),
               bias = copy_as(model.bias(), DType::f64);
  const auto *const w = weight.data<double>(), *const b = bias.data<double>();
  const Axis &x = panel.x(), &y = panel.y();
  std::vector<Point> region = {{x.low, y.low}, {x.high, y.low}, {x.high, y.high}, {x.low, y.high}};
  for (std::int64_t c = 0; c < model.classes(); ++c) {
    if (c == of_class) continue;
    region = cut(region, w[2 * of_class] - w[2 * c], w[2 * of_class + 1] - w[2 * c + 1],
                 b[of_class] - b[c]);
  }
  return region;
}

/// The interval of a column where the probability of a class is at least `core`, which is convex
/// in the plane. Between neighbors a line tells where it begins and ends. Empty if there is none.
std::vector<Point> core_of_column(const Rows& column, std::size_t classes, std::size_t of_class) {
  const auto excess = [&](std::size_t n) {
    return column.probabilities[n * classes + of_class] - core;
  };
  const auto crossing = [&](std::size_t outside, std::size_t inside) {
    const Point &from = column.points[outside], &to = column.points[inside];
    const double share = excess(outside) / (excess(outside) - excess(inside));
    return Point{from.x, from.y + share * (to.y - from.y)};
  };
  const std::size_t count = column.points.size();
  std::size_t first = 0;
  while (first < count && excess(first) < 0) ++first;
  if (first == count) return {};
  std::size_t last = count - 1;
  while (excess(last) < 0) --last;
  return {first == 0 ? column.points[0] : crossing(first - 1, first),
          last == count - 1 ? column.points[last] : crossing(last + 1, last)};
}

std::vector<Point> core_of(const SoftmaxRegression& model, std::int64_t of_class,
                           const Panel& panel) {
  constexpr int columns = 135, steps = 400;
  const Axis &x = panel.x(), &y = panel.y();
  std::vector<Point> lower, upper;
  for (int column = 0; column <= columns; ++column) {
    std::vector<Point> places;
    for (int step = 0; step <= steps; ++step) {
      places.push_back(
          {x.low + (x.high - x.low) * column / columns, y.low + (y.high - y.low) * step / steps});
    }
    const std::vector<Point> ends =
        core_of_column(Rows(model, places), index(model.classes()), index(of_class));
    if (ends.empty()) continue;
    lower.push_back(ends[0]);
    upper.push_back(ends[1]);
  }
  lower.insert(lower.end(), upper.rbegin(), upper.rend());
  return lower;
}

/// An axis over the values with some room around them. Values that are all but equal have more.
Axis axis_over(const std::string& label, const std::vector<double>& values) {
  constexpr double room = 0.06, least = 1e-6;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  const double magnitude = std::max(std::abs(*low), std::abs(*high));
  const double needed = magnitude == 0 ? 1 : least * magnitude;
  const double margin = std::max(room * (*high - *low), needed);
  return {label, *low - margin, *high + margin, round_ticks(*low - margin, *high + margin, 7)};
}

std::string picture(const SoftmaxRegression& model, const Rows& rows,
                    const std::vector<std::int64_t>& targets) {
  Svg svg(760, 500, "decision regions of softmax regression");
  std::vector<double> x, y;
  for (const Point& point : rows.points) {
    x.push_back(point.x);
    y.push_back(point.y);
  }
  const Area area{{75, 40}, 540, 400};
  Panel panel(svg, area, axis_over("feature 0", x), axis_over("feature 1", y));
  const std::int64_t classes = model.classes();
  for (std::int64_t c = 0; c < classes; ++c) {
    panel.polygon(region_of(model, c, panel), inks[index(c)].region);
    panel.polygon(core_of(model, c, panel), inks[index(c)].core);
  }
  panel.frame();
  std::int64_t right = 0;
  for (std::size_t n = 0; n < targets.size(); ++n) {
    const double* const p = rows.probabilities.data() + n * index(classes);
    const bool found = std::max_element(p, p + classes) - p == targets[n];
    right += found ? 1 : 0;
    const std::size_t c = index(targets[n]);
    svg.mark(panel.at(rows.points[n].x, rows.points[n].y), marker_of(c), inks[c].row,
             found ? Ink{"#ffffff"} : black);
  }
  panel.title(fmt::format("{} of {} rows are in the region of their class", right, targets.size()));
  for (std::int64_t c = 0; c < classes; ++c) {
    const double line = 60 + 24 * static_cast<double>(c);
    svg.mark({636, line}, marker_of(index(c)), inks[index(c)].row, {"#ffffff"});
    svg.text({650, line + 5}, fmt::format("class {}", c), Anchor::start);
  }
  const double below = 76 + 24 * static_cast<double>(classes);
  svg.text({630, below}, "darker: p at least 0.9", Anchor::start, 11);
  svg.text({630, below + 18}, "dark edge: wrong", Anchor::start, 11);
  return svg.finish();
}

int plot(const RegionsArguments& arguments) {
  require_suffix("--out", arguments.out, ".svg");
  const SoftmaxRegression model = read_model(arguments.model);
  const auto most = static_cast<std::int64_t>(inks.size());
  if (model.features() != 2 || model.classes() > most) {
    reject(
        "--model has {} features and {} classes; a picture needs 2 features and at most {} "
        "classes",
        model.features(), model.classes(), most);
  }
  const Tensor input = read_tensor(arguments.input), target = read_integers(arguments.target);
  const Dims& shape = input.shape();
  if (shape.rank() != 2 || shape[0] == 0 || shape[1] != 2 || !(target.shape() == Dims{shape[0]})) {
    reject("--input has shape {} and --target {}; a picture needs [N, 2] and [N], N at least 1",
           shape.to_string(), target.shape().to_string());
  }
  Tensor probabilities(DType::f64, {shape[0], model.classes()});
  model.predict(input.view(), probabilities.view());                     // checks the input
  calibration_bins(std::as_const(probabilities).view(), target.view());  // checks the target
  const Tensor wide = copy_as(input.view(), DType::f64);
  std::vector<Point> points;
  for (std::int64_t n = 0; n < shape[0]; ++n) {
    const Point point{wide.data<double>()[2 * n], wide.data<double>()[2 * n + 1]};
    constexpr double large = 1e100, small = 1e-100;  // what the lines can be computed from
    for (const double each : {std::abs(point.x), std::abs(point.y)}) {
      if (each != 0 && (each > large || each < small)) {
        reject("--input has {} in row {}; a picture needs 0, or magnitudes in {}..{}", each, n,
               small, large);
      }
    }
    points.push_back(point);
  }
  const auto* const classes = target.data<std::int64_t>();
  write_bytes(arguments.out, picture(model, Rows(model, points), {classes, classes + shape[0]}));
  return 0;
}

}  // namespace

void add_regions_plot(CLI::App& plot_command, Command& chosen) {
  const auto [command, arguments] = add_command<RegionsArguments>(
      plot_command, chosen, "regions", "decision regions of a softmax regression of two features",
      [](const RegionsArguments& given) {
        return under_option_names(regression_option_names, [&] { return plot(given); });
      });
  add_file(command, "--out FILE", arguments.out, "a file that ends in .svg")->required();
  add_file(command, "--model FILE", arguments.model, "what fit wrote, of 2 to 6 classes")
      ->required();
  add_file(command, "--input FILE", arguments.input, "[N, 2], the rows to draw")->required();
  add_file(command, "--target FILE", arguments.target, "their classes, integers [N]")->required();
}

}  // namespace attn::apps::demo
