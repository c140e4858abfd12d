// Minimizing a convex loss: L-BFGS (Nocedal 1980; Liu and Nocedal 1989) with the line search of
// Hager and Zhang 2005 (doi:10.1137/030601880). Near the minimum differences of the loss drown in
// its rounding long before those of its slope do, and this search then goes by the slope.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "regression/objective.hpp"
#include "regression/preconditioner.hpp"

namespace attn::detail {

class Lbfgs {
 public:
  /// Begins at 0.
  explicit Lbfgs(const FitProblem& problem);

  /// The point that has been reached.
  const std::vector<double>& parameters() const noexcept { return at_.parameters; }
  const std::vector<double>& gradient() const noexcept { return at_.gradient; }
  const Evaluation& value() const noexcept { return at_.value; }

  /// Makes one iteration. False if rounding leaves no direction and length that is better.
  bool step();

 private:
  struct Point {
    std::vector<double> parameters, gradient;
    Evaluation value;
    double slope = 0;  // along the direction
  };
  /// What two iterations tell of the Hessian: H step = change, about.
  struct Pair {
    std::vector<double> step, change;
    double product;  // step . change, above 0
  };

  bool search();
  bool set_direction();
  void evaluate(double length);
  bool long_enough() const noexcept;
  bool too_long() const noexcept;
  void remember();

  Objective objective_;
  Preconditioner preconditioner_;
  Point at_, trial_;
  std::vector<double> direction_, scratch_;
  std::deque<Pair> pairs_;  // the newest last
};

}  // namespace attn::detail
