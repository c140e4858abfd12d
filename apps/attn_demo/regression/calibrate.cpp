// attn_demo calibrate: the temperature that makes probabilities mean what they say.
#include <attn/io.hpp>
#include <attn/regression.hpp>

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>

#include "apps/attn_demo/commands.hpp"
#include "apps/attn_demo/regression/files.hpp"
#include "apps/support/options.hpp"

namespace attn::apps::demo {
namespace {

struct CalibrateArguments {
  std::string logits, target;
  Execution execution;
  bool json = false;
};

std::string explanation(CalibrationStatus status) {
  switch (status) {
    case CalibrationStatus::best: return "";
    case CalibrationStatus::all_right:
      return "no best temperature: all rows are right, and less is always better";
    case CalibrationStatus::none_is_better:
      return "no best temperature: the logits are no better than chance at any";
  }
  return "";
}

int calibrate(const CalibrateArguments& arguments) {
  const Tensor logits = read_tensor(arguments.logits), target = read_integers(arguments.target);
  const TemperatureCalibration found =
      calibrate_temperature(logits.view(), target.view(), arguments.execution);
  const double ece_before = expected_calibration_error(found.bins_before),
               ece_after = expected_calibration_error(found.bins_after);
  if (const std::string why = explanation(found.status); !why.empty()) fmt::print("{}\n", why);
  if (arguments.json) {
    const nlohmann::ordered_json all = {{"temperature", found.temperature},
                                        {"nll_before", found.nll_before},
                                        {"nll_after", found.nll_after},
                                        {"ece_before", ece_before},
                                        {"ece_after", ece_after}};
    fmt::print("{}\n", all.dump());
    return 0;
  }
  fmt::print("temperature  {:.6g}\n", found.temperature);
  fmt::print("NLL          {:.6g} before, {:.6g} after\n", found.nll_before, found.nll_after);
  fmt::print("ECE          {:.6g} before, {:.6g} after\n", ece_before, ece_after);
  return 0;
}

}  // namespace

void add_calibrate(CLI::App& app, Command& chosen) {
  const auto [command, arguments] = add_command<CalibrateArguments>(
      app, chosen, "calibrate", "the temperature of least negative log-likelihood of logits",
      [](const CalibrateArguments& given) {
        return under_option_names(regression_option_names, [&] { return calibrate(given); });
      });
  add_file(command, "--logits FILE", arguments.logits, "[N, C] of f16, bf16, f32 or f64")
      ->required();
  add_file(command, "--target FILE", arguments.target,
           "the class of each row, integers of any type [N]")
      ->required();
  add_integer(command, "--threads N", arguments.execution.num_threads, {1, max_num_threads},
              "number of threads; default: OMP_NUM_THREADS, else the processors");
  command.add_flag("--json", arguments.json, "one JSON object, on the last line");
}

}  // namespace attn::apps::demo
