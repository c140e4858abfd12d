#include <attn/regression.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "iterate/execution.hpp"
#include "regression/arguments.hpp"
#include "regression/lbfgs.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/copy.hpp"

namespace attn {
using namespace detail;
namespace {

constexpr std::int64_t least_classes = 2;

void require_options(const RegressionOptions& options) {
  if (options.classes && *options.classes < least_classes)
    reject(fmt::format("classes is {}; it needs 2 or more", *options.classes));
  for (const auto& [name, value] :
       {std::pair{"l2", options.l2}, std::pair{"tolerance", options.tolerance}}) {
    if (!(std::isfinite(value) && value >= 0))
      reject(fmt::format("{} is {}; it needs a finite number, 0 or more", name, value));
  }
  if (!(options.label_smoothing >= 0 && options.label_smoothing <= 1))
    reject(fmt::format("label_smoothing is {}; it needs to lie in 0..1", options.label_smoothing));
  if (options.max_iterations < 0)
    reject(fmt::format("max_iterations is {}; it needs 0 or more", options.max_iterations));
}

/// The classes that the targets have, whose number of weights fits a tensor.
std::int64_t checked_classes(const std::vector<std::int64_t>& targets, std::int64_t features,
                             const std::optional<std::int64_t>& given) {
  const auto largest = std::max_element(targets.begin(), targets.end());
  // The largest target may be the largest integer.
  const std::int64_t classes = given.value_or(saturating_sum(*largest, 1));
  if (classes < least_classes) {
    reject("target has class 0 alone; it needs 2 classes or more, unless their number is given");
  }
  if (saturating_product(classes, features + 1) > most_elements) {
    reject(fmt::format(
        "{} classes of {} features need more than 2^48 weights{}", classes, features,
        given ? "" : fmt::format(" (target[{}] is {})", largest - targets.begin(), *largest)));
  }
  return classes;
}

/// Without penalty and smoothing, weights that put every row on the right side are better still
/// when they are multiplied. So the loss has no minimum then.
bool is_separable(const Evaluation& value, const RegressionOptions& options, std::int64_t rows) {
  return options.l2 == 0 && options.label_smoothing == 0 && value.right_alone == rows;
}

/// The Euclidean norm of the gradient of the loss as a function of W and b, which are not centered.
/// The greatest double if it exceeds that.
double gradient_norm(std::vector<double> gradient, const FitProblem& problem) {
  const auto columns = static_cast<std::size_t>(problem.input.columns());
  double greatest = 0, sum = 0;
  for (std::size_t n = 0; n < gradient.size(); ++n) {
    const std::size_t column = n % columns;
    if (column + 1 < columns)
      gradient[n] += gradient[n - column + columns - 1] * problem.means[column];
    greatest = std::max(greatest, std::abs(gradient[n]));
  }
  if (greatest == 0) return 0;
  for (const double each : gradient) sum += each / greatest * (each / greatest);
  return std::min(greatest * std::sqrt(sum), std::numeric_limits<double>::max());
}

/// A point of a fit.
struct Reached {
  std::vector<double> parameters{};
  Evaluation value{};
  double norm = std::numeric_limits<double>::infinity();
};

Reached reached_by(const Lbfgs& lbfgs, const FitProblem& problem) {
  return {lbfgs.parameters(), lbfgs.value(), gradient_norm(lbfgs.gradient(), problem)};
}

/// Iterates until the norm is below the tolerance, or until an end that the report tells. Where
/// rounding hides the slope, iterations wander, and what counts is the point of the least norm.
Reached minimize(const FitProblem& problem, const RegressionOptions& options, FitReport& report) {
  constexpr int patience = 50;        // iterations
  constexpr double rounding = 1e-13;  // of the loss
  Lbfgs lbfgs(problem);
  Reached at = reached_by(lbfgs, problem), best = at;
  double least_loss = at.value.loss;
  for (int idle = 0; !(at.norm < options.tolerance);) {
    report.status = FitStatus::iteration_limit;
    if (report.iterations == options.max_iterations) return at;
    report.status = FitStatus::rounding;
    if (idle == patience || !lbfgs.step()) return best;
    ++report.iterations;
    at = reached_by(lbfgs, problem);
    const bool lower = at.value.loss < least_loss - rounding * std::abs(least_loss);
    idle = lower || at.norm < best.norm ? 0 : idle + 1;
    least_loss = std::min(least_loss, at.value.loss);
    if (at.norm < best.norm) best = at;
  }
  report.status = FitStatus::converged;
  return at;
}

/// [classes, features + 1] of W and b, from those of W and b'.
Tensor uncentered(const std::vector<double>& parameters, const FitProblem& problem) {
  const std::int64_t columns = problem.input.columns();
  Tensor result(DType::f64, {problem.classes, columns});
  std::copy(parameters.begin(), parameters.end(), result.data<double>());
  for (std::int64_t c = 0; c < problem.classes; ++c) {
    double* const row = result.data<double>() + c * columns;
    double moved = 0;
    for (std::int64_t k = 0; k + 1 < columns; ++k)
      moved += row[k] * problem.means[static_cast<std::size_t>(k)];
    row[columns - 1] -= moved;
  }
  return result;
}

}  // namespace

SoftmaxRegression::SoftmaxRegression(const TensorView& weight, const TensorView& bias) {
  require_matrix("weight", weight, "[classes, features]");
  const std::int64_t classes = weight.shape[0], features = weight.shape[1];
  if (classes < least_classes)
    reject(fmt::format("weight has shape {}: dim 0 is {}; it needs 2 classes or more",
                       weight.shape.to_string(), classes));
  require_any_float("bias", bias);
  require_rank("bias", bias, 1, "[classes]");
  require_extent("bias", bias, 0, classes, "classes of weight");
  require_memory("bias", bias);
  require_values("weight", weight, Values::finite, Threads{});
  parameters_ = Tensor(DType::f64, {classes, features + 1});
  const MutableTensorView all = parameters_.view();
  copy_elements(weight, all.sliced(1, 0, features));
  const MutableTensorView last = all.sliced(1, features, features + 1);
  copy_elements(bias, {last.data, DType::f64, {classes}, {features + 1}});
  for (std::int64_t c = 0; c < classes; ++c) {
    const double each = parameters_.data<double>()[(c + 1) * (features + 1) - 1];
    if (!std::isfinite(each))
      reject(fmt::format("bias[{}] is {}; it needs a finite number", c, each));
  }
}

RegressionFit SoftmaxRegression::fit(const TensorView& input, const TensorView& target,
                                     const RegressionOptions& options, const Execution& execution) {
  require_matrix("input", input, "[rows, features]");
  const std::int64_t rows = input.shape[0], features = input.shape[1];
  if (rows == 0 || features == 0) {
    reject(fmt::format("input has shape {}: dim {} is 0; it needs 1 or more ({})",
                       input.shape.to_string(), rows == 0 ? 0 : 1,
                       rows == 0 ? "rows" : "features"));
  }
  require_options(options);
  const ResolvedExecution resolved = resolve(execution);
  std::vector<std::int64_t> targets = checked_targets(target, "input", rows, options.classes);
  const std::int64_t classes = checked_classes(targets, features, options.classes);
  require_values("input", input, Values::finite, resolved.threads);

  const FitProblem problem(input, std::move(targets), classes, options, resolved.threads);
  FitReport report;
  const Reached reached = minimize(problem, options, report);
  if (is_separable(reached.value, options, rows)) report.status = FitStatus::separable;
  report.loss = reached.value.loss;
  report.accuracy = static_cast<double>(reached.value.right) / static_cast<double>(rows);
  report.gradient_norm = reached.norm;
  return {SoftmaxRegression(uncentered(reached.parameters, problem)), report};
}

const Tensor& SoftmaxRegression::parameters() const {
  if (parameters_.shape().rank() != 2)
    reject("this softmax regression was moved from; it can only be assigned to");
  return parameters_;
}

std::int64_t SoftmaxRegression::classes() const { return parameters().shape()[0]; }
std::int64_t SoftmaxRegression::features() const { return parameters().shape()[1] - 1; }

TensorView SoftmaxRegression::weight() const {
  return parameters().view().sliced(1, 0, features());
}

TensorView SoftmaxRegression::bias() const {
  const TensorView column = parameters().view().sliced(1, features(), features() + 1);
  return {column.data, DType::f64, {classes()}, {column.strides[0]}};
}

namespace {

/// Calls f(z) for the logits of each block of rows, [classes][lanes], and writes what it makes of
/// them to `out` [rows, classes].
template <class F>
void for_each_logits(const Tensor& parameters, const TensorView& input,
                     const MutableTensorView& out, const Execution& execution, F&& f) {
  require_matrix("input", input, "[rows, features]");
  const std::int64_t classes = parameters.shape()[0], columns = parameters.shape()[1];
  require_extent("input", input, 1, columns - 1, "features of the model");
  require_output_matrix("out", out, input.shape[0], classes);
  const ResolvedExecution resolved = resolve(execution);
  require_values("input", input, Values::finite, resolved.threads);
  if (input.shape[0] == 0) return;

  const RowBlocks rows(input, RowBlocks::Ones::yes);
  const Chunks chunks(rows.blocks(), 1);
  const Threads threads =
      threads_for(saturating_product(out.size(), columns) / lanes, resolved.threads);
  struct Scratch {
    RowBlock block;
    std::vector<double> z;
  };
  std::vector<Scratch> scratch(static_cast<std::size_t>(threads.count));
  for (Scratch& each : scratch) each.z.resize(static_cast<std::size_t>(classes * lanes));
  for_each_block(chunks, threads, [&](std::int64_t number, std::int64_t, int thread) {
    auto& [block, z] = scratch[static_cast<std::size_t>(thread)];
    rows.read(number, block);
    multiply_rows(block, columns, parameters.data<double>(), classes, z.data());
    f(z.data());
    copy_elements({z.data(), DType::f64, {block.count, classes}, {1, lanes}},
                  out.sliced(0, block.first, block.first + block.count));
  });
}

}  // namespace

void SoftmaxRegression::logits(const TensorView& input, const MutableTensorView& logits,
                               const Execution& execution) const {
  for_each_logits(parameters(), input, logits, execution, [](double*) {});
}

void SoftmaxRegression::predict(const TensorView& input, const MutableTensorView& probabilities,
                                double temperature, const Execution& execution) const {
  if (!(std::isfinite(temperature) && temperature > 0)) {
    reject(fmt::format("temperature is {}; it needs a finite number greater than 0", temperature));
  }
  const std::int64_t num_classes = classes();
  for_each_logits(parameters(), input, probabilities, execution,
                  [&](double* z) { softmax_rows(num_classes, temperature, z); });
}

}  // namespace attn
