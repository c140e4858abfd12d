#include "regression/objective.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "softmax/reproducible.hpp"
#include "tensor/size.hpp"

namespace attn::detail {
namespace {

std::size_t index(std::int64_t n) noexcept { return static_cast<std::size_t>(n); }

/// The means of features, and 0 for those so large that differences might overflow.
std::vector<double> means_of(const RowBlocks& input, const Threads& threads) {
  constexpr double most = 1e300;
  const auto rows = static_cast<double>(input.rows());
  std::vector<double> means =
      sum_over_rows(input, input.columns(), threads, [&](const RowBlock& block, double* sums) {
        for (std::int64_t lane = 0; lane < block.count; ++lane) {
          for (std::int64_t k = 0; k < input.columns(); ++k)
            sums[k] += block.rows[index(lane * input.columns() + k)] / rows;
        }
      });
  means.pop_back();  // that of the ones
  for (double& mean : means) mean = std::abs(mean) < most ? mean : 0;
  return means;
}

}  // namespace

FitProblem::FitProblem(const TensorView& x, std::vector<std::int64_t> classes_of_rows,
                       std::int64_t num_classes, const RegressionOptions& options,
                       const Threads& given_threads)
    : input(x, RowBlocks::Ones::yes),
      means(means_of(input, given_threads)),
      targets(std::move(classes_of_rows)),
      classes(num_classes),
      l2(options.l2),
      smoothing(options.label_smoothing),
      threads(given_threads) {
  input.subtract(means);
}

Objective::Objective(const FitProblem& problem)
    : problem_(problem),
      chunks_(problem.input.blocks(), size()),
      threads_(
          threads_for(saturating_product(problem.input.rows(), size()) / lanes, problem.threads)),
      gradients_(chunks_, size()),
      evaluations_(index(chunks_.count)),
      scratch_(index(threads_.count)) {
  for (Scratch& scratch : scratch_) {
    scratch.z.resize(index(problem.classes * lanes));
    scratch.p.resize(index(problem.classes * lanes));
  }
}

Evaluation Objective::operator()(const std::vector<double>& parameters,
                                 std::vector<double>& gradient) {
  gradients_.clear();
  std::fill(evaluations_.begin(), evaluations_.end(), Evaluation{});
  for_each_block(chunks_, threads_, [&](std::int64_t number, std::int64_t chunk, int thread) {
    Scratch& scratch = scratch_[index(thread)];
    problem_.input.read(number, scratch.block);
    process(scratch, parameters.data(), gradients_.of(chunk), evaluations_[index(chunk)]);
  });
  gradients_.add_up(gradient.data());
  Evaluation total;
  for (const Evaluation& each : evaluations_) {
    total.loss += each.loss;
    total.right += each.right;
    total.right_alone += each.right_alone;
  }
  total.loss =
      total.loss / static_cast<double>(problem_.input.rows()) + add_penalty(parameters, gradient);
  return total;
}

/// Adds the loss of a block's rows, not divided by their number, and its gradient, which is.
void Objective::process(Scratch& scratch, const double* parameters, double* gradient,
                        Evaluation& sum) const {
  const std::int64_t classes = problem_.classes, columns = problem_.input.columns();
  multiply_rows(scratch.block, columns, parameters, classes, scratch.z.data());
  subtract_greatest(classes, scratch.z.data());
  double sum_of_exp[lanes];
  exp_rows(classes, scratch.z.data(), 1, scratch.p.data(), sum_of_exp);
  for (std::int64_t lane = 0; lane < scratch.block.count; ++lane) {
    sum.loss += loss_of_lane(scratch, lane, sum_of_exp[lane]);
    count_right(scratch, lane, sum);
  }
  set_residuals(scratch, sum_of_exp);
  add_products(scratch.block, columns, scratch.p.data(), classes, gradient);
}

/// -sum_c q_c log p_c = log sum_c exp(z_c) - (1 - e) z_t - e / classes sum_c z_c
double Objective::loss_of_lane(const Scratch& scratch, std::int64_t lane,
                               double sum_of_exp) const noexcept {
  const double* const z = scratch.z.data() + lane;
  const double loss = reproducible_log(sum_of_exp) -
                      (1 - problem_.smoothing) * z[target(scratch.block, lane) * lanes];
  if (problem_.smoothing == 0) return loss;
  double sum = 0;
  for (std::int64_t c = 0; c < problem_.classes; ++c) sum += z[c * lanes];
  return loss - problem_.smoothing / static_cast<double>(problem_.classes) * sum;
}

void Objective::count_right(const Scratch& scratch, std::int64_t lane,
                            Evaluation& sum) const noexcept {
  const double* const z = scratch.z.data();
  if (z[target(scratch.block, lane) * lanes + lane] != 0) return;
  std::int64_t greatest = 0;
  for (std::int64_t c = 0; c < problem_.classes; ++c) greatest += z[c * lanes + lane] == 0 ? 1 : 0;
  if (greatest == 1) ++sum.right_alone;
  if (top_class(problem_.classes, z, lane) == target(scratch.block, lane)) ++sum.right;
}

/// Turns exponentials into (p - q) / rows; 0 in lanes without a row.
void Objective::set_residuals(Scratch& scratch, const double* sum_of_exp) const noexcept {
  const auto rows = static_cast<double>(problem_.input.rows()),
             of_each = problem_.smoothing / static_cast<double>(problem_.classes);
  for (std::int64_t lane = 0; lane < lanes; ++lane) {
    double* const p = scratch.p.data() + lane;
    const bool has_row = lane < scratch.block.count;
    for (std::int64_t c = 0; c < problem_.classes; ++c)
      p[c * lanes] = has_row ? (p[c * lanes] / sum_of_exp[lane] - of_each) / rows : 0;
    if (has_row) p[target(scratch.block, lane) * lanes] -= (1 - problem_.smoothing) / rows;
  }
}

/// Returns l2 / 2 ||W||^2 and adds its gradient.
double Objective::add_penalty(const std::vector<double>& parameters,
                              std::vector<double>& gradient) const {
  if (problem_.l2 == 0) return 0;
  const std::int64_t columns = problem_.input.columns();
  double sum = 0;
  for (std::int64_t c = 0; c < problem_.classes; ++c) {
    for (std::int64_t n = c * columns; n < (c + 1) * columns - 1; ++n) {
      sum += parameters[index(n)] * parameters[index(n)];
      gradient[index(n)] += problem_.l2 * parameters[index(n)];
    }
  }
  return problem_.l2 / 2 * sum;
}

}  // namespace attn::detail
