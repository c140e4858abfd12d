// attn_demo fit: a softmax regression of tensors in files.
#include <attn/io.hpp>
#include <attn/regression.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "apps/attn_demo/commands.hpp"
#include "apps/attn_demo/outputs.hpp"
#include "apps/attn_demo/regression/files.hpp"
#include "apps/support/memory.hpp"
#include "apps/support/options.hpp"

namespace attn::apps::demo {
namespace {

struct FitArguments {
  std::string input, target, out;
  RegressionOptions options;
  Execution execution;
  bool json = false;
};

/// Refuses weights that do not fit into memory, such as those of a target of 10^12.
void require_room(const Tensor& input, const Tensor& target, const RegressionOptions& options) {
  if (input.shape().rank() != 2 || target.size() == 0) return;  // the library refuses them
  const auto* const classes = target.data<std::int64_t>();
  const double largest = static_cast<double>(*std::max_element(classes, classes + target.size()));
  const double needed =
      options.classes ? static_cast<double>(*options.classes) : std::max(largest, 0.) + 1;
  constexpr double copies = 32;  // of the weights: L-BFGS's memory, and gradients of threads
  require_memory(
      fmt::format("a fit of {:.0f} classes", needed),
      copies * needed * static_cast<double>(input.shape()[1] + 1) * double{sizeof(double)});
}

std::string explanation(const FitReport& report, const RegressionOptions& options) {
  const std::string norm = fmt::format("the gradient norm is {:.3g}", report.gradient_norm);
  switch (report.status) {
    case FitStatus::converged: return "";
    case FitStatus::separable:
      return "did not converge: planes separate the classes, so larger weights are always better; "
             "--l2 or --label-smoothing bounds them";
    case FitStatus::iteration_limit:
      return fmt::format("did not converge in {} iterations: {}, not below {:.3g}",
                         report.iterations, norm, options.tolerance);
    case FitStatus::rounding:
      return fmt::format(
          "did not converge: {}, which rounding keeps from falling below {:.3g}; features of "
          "similar scale and a mean near 0 help",
          norm, options.tolerance);
  }
  return "";
}

void print_text(const FitReport& report) {
  fmt::print("iterations     {}\n", report.iterations);
  fmt::print("loss           {:.6g}\n", report.loss);
  fmt::print("accuracy       {:.6g}\n", report.accuracy);
  fmt::print("gradient norm  {:.3g}\n", report.gradient_norm);
}

void print_json(const FitReport& report) {
  const nlohmann::ordered_json all = {{"iterations", report.iterations},
                                      {"loss", report.loss},
                                      {"accuracy", report.accuracy},
                                      {"gradient_norm", report.gradient_norm},
                                      {"converged", report.status == FitStatus::converged}};
  fmt::print("{}\n", all.dump());
}

int fit(const FitArguments& arguments) {
  const Tensor input = read_tensor(arguments.input), target = read_integers(arguments.target);
  require_suffix("--out", arguments.out, ".safetensors");
  require_room(input, target, arguments.options);
  OutputFiles files;
  files.add(arguments.out);
  const auto [model, report] =
      SoftmaxRegression::fit(input.view(), target.view(), arguments.options, arguments.execution);
  const StoredModel stored = stored_model(model, input.view());
  const std::array<NamedTensor, 2> tensors = {
      {{"weight", stored.weight.view()}, {"bias", stored.bias.view()}}};
  files.write(arguments.out, tensors);
  files.commit();
  if (!arguments.json) print_text(report);
  if (const std::string why = explanation(report, arguments.options); !why.empty())
    fmt::print("{}\n", why);
  if (arguments.json) print_json(report);
  return 0;
}

void add_options(CLI::App& command, FitArguments& arguments) {
  RegressionOptions& options = arguments.options;
  add_file(command, "--input FILE", arguments.input,
           "features, [N, features] of f16, bf16, f32 or f64")
      ->required();
  add_file(command, "--target FILE", arguments.target,
           "the class of each row, integers of any type [N], from 0 on")
      ->required();
  add_file(command, "--out FILE", arguments.out,
           "weight [C, features] and bias [C], f32: a name that ends in .safetensors")
      ->required();
  add_integer(command, "--classes C", options.classes, {.min = 2},
              "at least 2; default 1 + the largest target");
  add_number(command, "--l2 L", options.l2, not_negative,
             "adds L / 2 times the sum of squared weights to the loss; default 0");
  add_number(command, "--label-smoothing E", options.label_smoothing, fraction,
             "in 0..1: targets are (1 - E) times one-hot, plus E / C; default 0");
  add_integer(command, "--max-iterations N", options.max_iterations, {.min = 0}, "default 10000");
  add_number(command, "--tolerance T", options.tolerance, not_negative,
             "ends when the Euclidean norm of the gradient is below T; default 1e-6");
  add_integer(command, "--threads N", arguments.execution.num_threads, {1, max_num_threads},
              "number of threads; default: OMP_NUM_THREADS, else the processors");
  command.add_flag("--json", arguments.json, "one JSON object, on the last line");
}

}  // namespace

void add_fit(CLI::App& app, Command& chosen) {
  const auto [command, arguments] = add_command<FitArguments>(
      app, chosen, "fit", "softmax regression: weights that predict classes from features",
      [](const FitArguments& given) {
        return under_option_names(regression_option_names, [&] { return fit(given); });
      });
  add_options(command, arguments);
}

}  // namespace attn::apps::demo
