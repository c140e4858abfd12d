// The loss that a softmax regression minimizes, and its gradient.
//
//   loss = mean_i -sum_c q_ic log p_ic + l2 / 2 ||W||^2,  q_ic = (1 - e) [c = t_i] + e / classes
//   dloss / dz_ic = (p_ic - q_ic) / rows,  z = X W^T + b
//
// These are cross_entropy() and its gradient, in double. That function computes exponentials in f32
// and rounds its gradient to f32, which is right for training by steps; but the norm of the
// gradient then stays near 1e-7 of the features' magnitude, and a minimum is to be found to less
// than that.
//
// Features are centered: z = W (x - mean) + b', where b' = b + W mean. Without that, z and the sums
// of the gradient would lose the digits that a mean far from 0 takes. The gradient of the loss as a
// function of W and b is (g + g_b mean, g_b).
//
// Parameters and gradients are [classes][columns]; columns are the features and the bias b', whose
// input is 1.
#pragma once

#include <attn/regression.hpp>

#include <cstdint>
#include <vector>

#include "regression/row_blocks.hpp"

namespace attn::detail {

/// What a fit is told. All has been checked.
struct FitProblem {
  FitProblem(const TensorView& x, std::vector<std::int64_t> classes_of_rows,
             std::int64_t num_classes, const RegressionOptions& options,
             const Threads& given_threads);
  std::int64_t features() const noexcept { return input.columns() - 1; }

  RowBlocks input;            // with ones; it subtracts the means
  std::vector<double> means;  // of features
  std::vector<std::int64_t> targets;
  std::int64_t classes;
  double l2, smoothing;
  Threads threads;
};

/// The loss at some parameters.
struct Evaluation {
  double loss = 0;
  std::int64_t right = 0;        // rows whose top class is the target; of equals the first
  std::int64_t right_alone = 0;  // rows whose target has the greatest logit, and no other class
};

class Objective {
 public:
  explicit Objective(const FitProblem& problem);

  std::int64_t size() const noexcept { return problem_.classes * problem_.input.columns(); }
  /// Sets the gradient.
  Evaluation operator()(const std::vector<double>& parameters, std::vector<double>& gradient);

 private:
  struct Scratch {
    RowBlock block;
    std::vector<double> z, p;  // [classes][lanes]
  };

  void process(Scratch& scratch, const double* parameters, double* gradient, Evaluation& sum) const;
  double loss_of_lane(const Scratch& scratch, std::int64_t lane, double sum_of_exp) const noexcept;
  void count_right(const Scratch& scratch, std::int64_t lane, Evaluation& sum) const noexcept;
  void set_residuals(Scratch& scratch, const double* sum_of_exp) const noexcept;
  double add_penalty(const std::vector<double>& parameters, std::vector<double>& gradient) const;

  std::int64_t target(const RowBlock& block, std::int64_t lane) const noexcept {
    return problem_.targets[static_cast<std::size_t>(block.first + lane)];
  }

  const FitProblem& problem_;
  Chunks chunks_;
  Threads threads_;
  ChunkSums gradients_;
  std::vector<Evaluation> evaluations_;  // of chunks
  std::vector<Scratch> scratch_;         // of threads
};

}  // namespace attn::detail
