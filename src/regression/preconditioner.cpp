#include "regression/preconditioner.hpp"

#include <algorithm>
#include <cmath>

namespace attn::detail {
namespace {

constexpr std::int64_t most_factored = 256;

std::size_t index(std::int64_t n) noexcept { return static_cast<std::size_t>(n); }

/// The root of a^2 + b^2 of numbers of 0 or more, whose squares may not fit a double.
double root_of_squares(double a, double b) noexcept {
  const double most = std::max(a, b);
  if (most == 0) return 0;
  return most * std::sqrt(a / most * (a / most) + b / most * (b / most));
}

}  // namespace

Preconditioner::Preconditioner(const FitProblem& problem)
    : features_(problem.features()), classes_(problem.classes) {
  set_deviations(problem);
  const std::vector<double> sums = products(problem);
  set_scales(sums, problem);
  if (factored()) set_factor(sums, problem);
}

bool Preconditioner::factored() const noexcept { return features_ <= most_factored; }

void Preconditioner::set_deviations(const FitProblem& problem) {
  constexpr double rounding = 1e-12;  // of a mean
  const auto rows = static_cast<double>(problem.input.rows());
  const std::int64_t columns = features_ + 1;
  deviations_ = sum_over_rows(
      problem.input, columns, problem.threads, [&](const RowBlock& block, double* sums) {
        for (std::int64_t lane = 0; lane < block.count; ++lane) {
          for (std::int64_t k = 0; k < features_; ++k)
            sums[k] += std::abs(block.rows[index(lane * columns + k)]) / rows;
        }
      });
  for (std::int64_t k = 0; k < features_; ++k) {
    double& deviation = deviations_[index(k)];
    if (deviation <= rounding * std::abs(problem.means[index(k)])) deviation = 0;
  }
}

/// The sums over rows of y_i y_j, or of y_i y_i alone, with y = (x - mean) / deviation, whose
/// squares fit a double whatever x is.
std::vector<double> Preconditioner::products(const FitProblem& problem) const {
  const std::int64_t columns = features_ + 1;
  const auto divide = [&](RowBlock& block) {
    for (std::int64_t lane = 0; lane < block.count; ++lane) {
      for (std::int64_t k = 0; k < features_; ++k) {
        double& x = block.rows[index(lane * columns + k)];
        x = deviations_[index(k)] == 0 ? 0 : x / deviations_[index(k)];
        block.side_by_side[index(k * lanes + lane)] = x;
      }
    }
  };
  if (factored()) {
    return sum_over_rows(problem.input, features_ * columns, problem.threads,
                         [&](RowBlock& block, double* sums) {
                           divide(block);
                           add_products(block, columns, block.side_by_side.data(), features_, sums);
                         });
  }
  return sum_over_rows(problem.input, columns, problem.threads, [&](RowBlock& block, double* sums) {
    divide(block);
    for (std::int64_t lane = 0; lane < block.count; ++lane) {
      const double* const row = block.rows.data() + lane * columns;
      for (std::int64_t k = 0; k < features_; ++k) sums[k] += row[k] * row[k];
    }
  });
}

void Preconditioner::set_scales(const std::vector<double>& products, const FitProblem& problem) {
  const double divisor = static_cast<double>(problem.input.rows() * classes_);
  scales_.resize(index(features_));
  for (std::int64_t k = 0; k < features_; ++k) {
    const double squares = products[index(factored() ? k * (features_ + 1) + k : k)];
    const double scale = root_of_squares(deviations_[index(k)] * std::sqrt(squares / divisor),
                                         std::sqrt(problem.l2));
    scales_[index(k)] = scale == 0 ? 1 : scale;
  }
}

/// Cholesky's factorization. What is added to the diagonal, of ones, keeps it possible where
/// features depend on each other.
void Preconditioner::set_factor(const std::vector<double>& products, const FitProblem& problem) {
  constexpr double added = 1e-12;
  const double divisor = static_cast<double>(problem.input.rows() * classes_);
  factor_.resize(index(features_ * features_));
  const auto at = [&](std::int64_t i, std::int64_t j) -> double& {
    return factor_[index(i * features_ + j)];
  };
  for (std::int64_t i = 0; i < features_; ++i) {
    for (std::int64_t j = 0; j <= i; ++j) {
      const double covariance = products[index(i * (features_ + 1) + j)] / divisor *
                                (deviations_[index(i)] / scales_[index(i)]) *
                                (deviations_[index(j)] / scales_[index(j)]);
      double sum = i == j ? 1 + added : covariance;
      for (std::int64_t k = 0; k < j; ++k) sum -= at(i, k) * at(j, k);
      at(i, j) = i == j ? std::sqrt(std::max(sum, added)) : sum / at(j, j);
    }
  }
}

/// w = S^-1 w
void Preconditioner::solve(double* w) const noexcept {
  for (std::int64_t k = 0; k < features_; ++k) w[k] /= scales_[index(k)];
  if (factored()) {
    for (std::int64_t i = 0; i < features_; ++i) {
      const double* const row = factor_.data() + i * features_;
      for (std::int64_t k = 0; k < i; ++k) w[i] -= row[k] * w[k];
      w[i] /= row[i];
    }
    for (std::int64_t i = features_ - 1; i >= 0; --i) {
      const double* const row = factor_.data() + i * features_;
      w[i] /= row[i];
      for (std::int64_t k = 0; k < i; ++k) w[k] -= row[k] * w[i];
    }
  }
  for (std::int64_t k = 0; k < features_; ++k) w[k] /= scales_[index(k)];
}

void Preconditioner::apply(const std::vector<double>& gradient,
                           std::vector<double>& step) const noexcept {
  const std::int64_t columns = features_ + 1;
  for (std::int64_t c = 0; c < classes_; ++c) {
    const double* const g = gradient.data() + c * columns;
    double* const w = step.data() + c * columns;
    std::copy_n(g, features_, w);
    solve(w);
    w[features_] = static_cast<double>(classes_) * g[features_];
  }
}

}  // namespace attn::detail
