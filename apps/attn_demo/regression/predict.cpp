// attn_demo predict: probabilities of classes from a model that fit has written.
#include <attn/io.hpp>
#include <attn/regression.hpp>

#include <fmt/format.h>

#include <cmath>
#include <optional>
#include <string>

#include "apps/attn_demo/commands.hpp"
#include "apps/attn_demo/outputs.hpp"
#include "apps/attn_demo/regression/files.hpp"
#include "apps/support/options.hpp"

namespace attn::apps::demo {
namespace {

struct PredictArguments {
  std::string model, input;
  std::optional<std::string> out, logits;
  double temperature = 1;
  Execution execution;
};

/// Throws Error for a row whose logits overflow; the range of f32 is what they are written in.
void require_finite_logits(const Tensor& logits) {
  for (std::int64_t n = 0; n < logits.size(); ++n) {
    if (std::isfinite(logits.data<float>()[n])) continue;
    const std::int64_t classes = logits.shape()[1];
    reject("--input: row {} has a logit for class {} that f32 cannot hold", n / classes,
           n % classes);
  }
}

int predict(const PredictArguments& arguments) {
  const SoftmaxRegression model = read_model(arguments.model);
  const Tensor input = read_tensor(arguments.input);
  const std::int64_t rows = input.shape().rank() > 0 ? input.shape()[0] : 0;
  const Dims shape{rows, model.classes()};
  Outputs outputs;
  const MutableTensorView out = outputs.make("--out", arguments.out, DType::f32, shape);
  const MutableTensorView written = outputs.make("--logits", arguments.logits, DType::f32, shape);
  Tensor logits(DType::f32, shape);
  model.logits(input.view(), logits.view(), arguments.execution);
  require_finite_logits(logits);
  model.predict(input.view(), out, arguments.temperature, arguments.execution);
  if (arguments.logits) copy_into(std::as_const(logits).view(), written);
  outputs.commit();
  return 0;
}

}  // namespace

void add_predict(CLI::App& app, Command& chosen) {
  const auto [command, arguments] = add_command<PredictArguments>(
      app, chosen, "predict", "probabilities of classes from features, by a model that fit wrote",
      [](const PredictArguments& given) {
        return under_option_names(regression_option_names, [&] { return predict(given); });
      });
  add_file(command, "--model FILE", arguments.model,
           "a .safetensors file with weight [C, features] and bias [C]")
      ->required();
  add_file(command, "--input FILE", arguments.input,
           "features, [N, features] of f16, bf16, f32 or f64")
      ->required();
  add_file(command, "--out FILE", arguments.out,
           "probabilities, f32 [N, C]: .npy, or .safetensors where the name ends so")
      ->required();
  add_number(command, "--temperature T", arguments.temperature, positive,
             "probabilities are softmax(logits / T); default 1");
  add_file(command, "--logits FILE", arguments.logits,
           "logits before the division by T, f32 [N, C]");
  add_integer(command, "--threads N", arguments.execution.num_threads, {1, max_num_threads},
              "number of threads; default: OMP_NUM_THREADS, else the processors");
}

}  // namespace attn::apps::demo
