// The inverse of the Hessian of the loss at W = 0, the initial matrix of L-BFGS.
//
// There every p is 1 / C, and for gradients that sum to 0 over classes, as all of them do, the
// Hessian treats each class alone. (But for a factor it bounds all Hessians: Boehning 1992,
// doi:10.1007/BF00048682.) Features are centered, so that it does not mix them with the bias:
//
//   step of W = S^-1 g,  S = cov(x) / C + l2 I        step of b' = C g_b
//
// With it neither the scale of features nor their correlation matters much. Beyond most_factored
// features only the diagonal of S is used, since its matrix would cost more than it saves.
#pragma once

#include <cstdint>
#include <vector>

#include "regression/objective.hpp"

namespace attn::detail {

class Preconditioner {
 public:
  explicit Preconditioner(const FitProblem& problem);

  /// step = H^-1 gradient, both [classes][columns].
  void apply(const std::vector<double>& gradient, std::vector<double>& step) const noexcept;

 private:
  void set_deviations(const FitProblem& problem);
  std::vector<double> products(const FitProblem& problem) const;
  void set_scales(const std::vector<double>& products, const FitProblem& problem);
  void set_factor(const std::vector<double>& products, const FitProblem& problem);
  void solve(double* w) const noexcept;
  bool factored() const noexcept;

  std::int64_t features_, classes_;
  std::vector<double> deviations_;  // the mean of |x - mean|; 0 where that is its rounding
  std::vector<double> scales_;      // the root of the diagonal of S; 1 where that is 0
  /// The lower triangular factor, by rows, of S divided by the scales of both its indices. Empty if
  /// only the diagonal is used.
  std::vector<double> factor_;
};

}  // namespace attn::detail
