// Softmax regression (multinomial logistic regression): probabilities of classes from features,
// and how far such probabilities can be trusted.
//
//   logits z = X W^T + b      X [rows, features], W [classes, features], b [classes]
//   p = softmax(z / T)
//
// fit() minimizes the mean cross-entropy of smoothed targets with an L2 penalty:
//
//   loss = mean_i -sum_c q_ic log p_ic + l2 / 2 ||W||^2,   q_ic = (1 - e) [c = t_i] + e / classes
//
// The bias is not penalized. Each class has a row of W, with two classes too, and each is
// penalized. The method is L-BFGS (Nocedal 1980, doi:10.1090/S0025-5718-1980-0572855-7; Liu and
// Nocedal 1989, doi:10.1007/BF01589116). Its initial matrix is the inverse of the Hessian at W = 0,
// of which only the diagonal is used from 256 features on, so that the scale of a feature and the
// correlation of features hardly matter. It starts at 0, where every class is as probable as any
// other.
//
// Types. X and logits are f32, bf16, f16 or f64, with any strides; targets are i8, i32, i64 or
// boolean (0 and 1), [rows]. All is computed in double. Nothing of the size of X is allocated.
//
// Determinism. Results have the same bits for any number of threads, any ISA and any machine: sums
// are taken over blocks of rows, in an order that follows from the sizes alone, and nothing is used
// but operations whose result IEEE 754 defines.
//
// Errors. What is said below, and what BasicTensorView says of every tensor, is checked before
// anything is computed or written: Error(invalid_argument).
#pragma once

#include <attn/execution.hpp>
#include <attn/export.hpp>
#include <attn/tensor.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace attn {

struct RegressionOptions {
  /// At least 2; default: 1 + the largest target. A class may have no rows. Its bias then falls
  /// until the gradient is below the tolerance.
  std::optional<std::int64_t> classes{};
  double l2 = 0;               // finite, >= 0
  double label_smoothing = 0;  // e of the formula, in 0..1
  std::int64_t max_iterations = 10000;
  /// The fit ends when the Euclidean norm of the loss's gradient, over all weights and biases, is
  /// below it. Finite, >= 0.
  double tolerance = 1e-6;
};

/// How a fit ended.
enum class FitStatus : std::uint8_t {
  converged,        // the norm of the gradient is below the tolerance
  separable,        // planes separate the classes, l2 and label_smoothing are 0: larger weights
                    // are always better, and the loss has no minimum. The fit went on until the
                    // norm was below the tolerance, or until one of the next two
  iteration_limit,  // max_iterations
  rounding,         // the tolerance is below what double can tell from 0 on these inputs
};

/// What fit() reports of the weights that it returns.
struct FitReport {
  std::int64_t iterations = 0;
  double loss = 0;           // what was minimized, smoothing and penalty included
  double accuracy = 0;       // of the inputs; of equal logits the first class counts
  double gradient_norm = 0;  // Euclidean, over all weights and biases
  FitStatus status = FitStatus::converged;
};

struct RegressionFit;

/// The weights of a softmax regression, in double. It can be moved but not copied. The functions of
/// an object that was moved from throw Error(invalid_argument).
class ATTN_API SoftmaxRegression {
 public:
  /// Copies weight [classes, features] and bias [classes], each f32, bf16, f16 or f64, finite; at
  /// least two classes.
  SoftmaxRegression(const TensorView& weight, const TensorView& bias);

  /// Fits to input [rows, features] and target [rows]; at least one row, every input finite.
  static RegressionFit fit(const TensorView& input, const TensorView& target,
                           const RegressionOptions& options = {}, const Execution& execution = {});

  std::int64_t classes() const;
  std::int64_t features() const;
  /// f64 [classes, features] and f64 [classes]; views of the object's memory.
  TensorView weight() const;
  TensorView bias() const;

  /// z = X W^T + b. input [rows, features] is finite, logits [rows, classes] f32, bf16, f16 or f64.
  /// A logit beyond the range of its type becomes infinite.
  void logits(const TensorView& input, const MutableTensorView& logits,
              const Execution& execution = {}) const;
  /// p = softmax(z / temperature), in the same shapes and types, computed from z in double.
  /// temperature is finite and above 0.
  void predict(const TensorView& input, const MutableTensorView& probabilities,
               double temperature = 1, const Execution& execution = {}) const;

 private:
  explicit SoftmaxRegression(Tensor parameters) noexcept : parameters_(std::move(parameters)) {}
  const Tensor& parameters() const;

  Tensor parameters_;  // f64 [classes, features + 1]; the last column is the bias
};

struct RegressionFit {
  SoftmaxRegression model;
  FitReport report;
};

/// Rows whose top probability lies in one bin.
struct CalibrationBin {
  std::int64_t rows = 0;
  double confidence = 0;  // the mean of their top probabilities; 0 without rows
  double accuracy = 0;    // the share of them whose top class is the target; 0 without rows
};

/// Puts rows into num_bins >= 1 bins of equal width over [0, 1] by their top probability. A bin has
/// its lower end, and the last one both. Of equal probabilities the first class is the top.
/// probabilities [rows, classes], f32, bf16, f16 or f64, in 0..1; target as in fit(), below
/// classes.
ATTN_API std::vector<CalibrationBin> calibration_bins(const TensorView& probabilities,
                                                      const TensorView& target,
                                                      std::int64_t num_bins = 15,
                                                      const Execution& execution = {});
/// The expected calibration error (Naeini, Cooper and Hauskrecht 2015,
/// doi:10.1609/aaai.v29i1.9602): the mean over rows of |accuracy - confidence| of their bins. 0
/// without rows.
ATTN_API double expected_calibration_error(std::span<const CalibrationBin> bins);
ATTN_API double expected_calibration_error(const TensorView& probabilities,
                                           const TensorView& target, std::int64_t num_bins = 15,
                                           const Execution& execution = {});

/// Whether there is a temperature that is best.
enum class CalibrationStatus : std::uint8_t {
  best,
  all_right,       // the target has the greatest logit of each row: less is always better
  none_is_better,  // the logits are no better than chance: more is always better, or, with equal
                   // logits in each row, any is as good as any other
};

struct TemperatureCalibration {
  /// Above 0 and finite. Where none is best: so near the limit that less (or more) changes no
  /// probability by more than 1e-6, or 1 if that is nearer, or if all are alike.
  double temperature = 1;
  CalibrationStatus status = CalibrationStatus::best;
  /// The mean negative log-likelihood at temperature 1 and at `temperature`, and the bins (15) of
  /// the probabilities. nll_after is never above nll_before. What exceeds a double is its largest
  /// number.
  double nll_before = 0, nll_after = 0;
  std::vector<CalibrationBin> bins_before, bins_after;
};

/// Temperature scaling (Guo, Pleiss, Sun and Weinberger 2017, arXiv:1706.04599): the temperature at
/// which softmax(logits / temperature) has the least mean negative log-likelihood, to the rounding
/// of double. logits [rows, classes] are finite, with at least one row and two classes; target as
/// in fit(), below classes.
ATTN_API TemperatureCalibration calibrate_temperature(const TensorView& logits,
                                                      const TensorView& target,
                                                      const Execution& execution = {});

}  // namespace attn
