// Fenchel-Young losses of entmax (Blondel, Martins and Niculae 2020, arXiv:1901.02324). With
// rest = alpha - 1, z = rest x, and tau such that sum_i p_i = 1,
//
//   p_i = max(z_i - tau, 0)^(1 / rest)
//   H(p) = (1 - sum_i p_i^alpha) / (alpha rest)
//   L = (p - q) . x + H(p) - H(q)
//
// L can be written as a sum over classes of terms >= 0, so that nothing cancels for any x. Where
// p_i > 0, z_i = p_i^rest + tau, and tau drops out because p and q have the same sum. With
// log_alpha(u) = (u^rest - 1) / rest, which is log u in the limit alpha = 1, the terms are
//
//   p_i > 0:  (q_i (log_alpha(q_i) - log_alpha(p_i)) - (q_i - p_i) p_i^rest) / alpha
//             (the Bregman divergence of -H between q and p)
//   p_i = 0:  q_i ((log_alpha(q_i) - 1) / alpha - log_i),   log_i = x_i - max x + log_alpha(max p)
//
// log_i equals log_alpha(p_i) where p_i > 0, and continues it to classes where p_i is 0 because x_i
// is below the threshold or because p_i underflows.
#include <attn/loss.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

#include "softmax/log_probabilities.hpp"
#include "softmax/loss_arguments.hpp"
#include "softmax/row_functions.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"

namespace attn {
using namespace detail;
namespace {

constexpr double minus_infinity = -std::numeric_limits<double>::infinity();

/// max(x, 0), but NaN for NaN.
double at_least_zero(double x) { return x < 0 ? 0 : x; }

/// The terms of L for alpha > 1.
class FenchelYoungTerms {
 public:
  explicit FenchelYoungTerms(double alpha) : alpha_(alpha) {}

  double log_alpha(double u) const {
    if (alpha_ == 2) return u - 1;
    if (alpha_ == 1.5) return 2 * (std::sqrt(u) - 1);
    return std::expm1((alpha_ - 1) * std::log(u)) / (alpha_ - 1);
  }
  /// The term of a class with p > 0, or with p = NaN.
  double on_support(double q, double p) const {
    if (q == p) return 0;
    if (alpha_ == 2) return (q - p) * (q - p) / 2;
    if (alpha_ == 1.5) {
      const double a = std::sqrt(q), b = std::sqrt(p);
      return (a - b) * (a - b) * (2 * a + b) * (2. / 3);
    }
    const double log_p = log_alpha(p);
    return at_least_zero((q * (log_alpha(q) - log_p) - (q - p) * (1 + (alpha_ - 1) * log_p)) /
                         alpha_);
  }
  /// The term of a class with p = 0 and q > 0.
  double off_support(double q, double log) const {
    return at_least_zero(q * ((log_alpha(q) - 1) / alpha_ - log));
  }

 private:
  double alpha_;
};

/// The loss of a slice for alpha > 1. The slice has 3 * extent floats of scratch.
double entmax_loss_of(const LossTargets& targets, const Slice& slice, float alpha,
                      const kernels::Kernels& kernels) {
  const float* const x = slice.in[0];
  float* const p = slice.scratch;
  entmax_row(kernels, x, slice.extent, alpha, p, p + slice.extent);
  const double maximum = greatest(kernels, x, slice.extent);
  const FenchelYoungTerms terms(alpha);
  const double log_of_greatest = terms.log_alpha(greatest(kernels, p, slice.extent));
  double sum = 0;
  targets.for_each_class(slice, [&](std::int64_t c, double q) {
    if (p[c] != 0)
      sum += terms.on_support(q, p[c]);
    else if (q != 0)
      sum += terms.off_support(
          q, x[c] == minus_infinity ? minus_infinity : x[c] - maximum + log_of_greatest);
  });
  return sum;
}

/// The loss of a slice for alpha = 1: sum_c q_c log(q_c / p_c), the Kullback-Leibler divergence,
/// plus sum_c p_c - sum_c q_c, which is 0 unless q does not sum to 1.
double softmax_loss_of(const LossTargets& targets, const Slice& slice,
                       const kernels::Kernels& kernels) {
  LogSum log_sum;
  log_sum_rows(kernels, {slice.in[0], 0, 1, slice.extent}, &log_sum);
  const LogProbabilities log_p(slice.in[0], slice.extent, log_sum);
  if (targets.one_hot()) return loss_of(log_p[targets.class_of(slice.index)]);
  double sum = log_p.empty() ? 0 : 1;  // begins with sum_c p_c
  targets.for_each_class(slice, [&](std::int64_t c, double q) {
    sum += weighted(q, loss_of(log_p[c])) - q;
    if (q != 0) sum += q * std::log(q);
  });
  return at_least_zero(sum);
}

/// dx_c = factor (p_c - q_c), zeros for an ignored slice.
void gradient_of(const LossTargets& targets, const Slice& slice, float alpha, double factor,
                 const kernels::Kernels& kernels) {
  float* const dx = slice.out[0];
  if (targets.ignored(slice.index)) {
    std::fill(dx, dx + slice.extent, 0.f);
    return;
  }
  entmax_row(kernels, slice.in[0], slice.extent, alpha, dx, slice.scratch);
  targets.for_each_class(
      slice, [&](std::int64_t c, double q) { dx[c] = static_cast<float>(factor * (dx[c] - q)); });
}

/// These losses compare whole distributions, so a weight can apply to a slice by its target class,
/// but not to a single class of a distribution.
void require_weights_of_targets(const LossTargets& targets, const LossOptions& options) {
  if (!options.weight.absent() && !targets.distributions().absent()) {
    reject(
        fmt::format("weight is given, but target is of type {}: the weight of a slice is that of "
                    "its target class, and a "
                    "distribution has none",
                    name_of(targets.distributions().dtype)));
  }
}

double weight_of_slice(const LossTargets& targets, std::int64_t slice) {
  return targets.distributions().absent() ? targets.weight(targets.class_of(slice)) : 1;
}

}  // namespace

void entmax_loss(const TensorView& x, const TensorView& target, const MutableTensorView& loss,
                 float alpha, const LossOptions& options, const Execution& execution) {
  require_alpha(alpha);
  require_input("x", x);
  require_loss_output("loss", loss, {"x", x}, options.reduction);
  const ResolvedExecution resolved = resolve(execution);
  const LossTargets targets({"x", x}, target, options, resolved);
  require_weights_of_targets(targets, options);
  LossReduction losses(loss, options.reduction, targets);
  const std::int64_t scratch = (alpha == 1 ? 0 : 3) * targets.classes();
  for_each_slice(
      {.in = {x, targets.distributions()}, .dim = targets.class_dim(), .scratch = scratch},
      resolved, [&](const Slice& slice) {
        if (targets.ignored(slice.index)) return losses.set(slice.index, 0);
        const double here = alpha == 1 ? softmax_loss_of(targets, slice, resolved.kernels)
                                       : entmax_loss_of(targets, slice, alpha, resolved.kernels);
        losses.set(slice.index, weighted(weight_of_slice(targets, slice.index), here));
      });
  losses.finish(resolved.threads);
}

void sparsemax_loss(const TensorView& x, const TensorView& target, const MutableTensorView& loss,
                    const LossOptions& options, const Execution& execution) {
  entmax_loss(x, target, loss, 2, options, execution);
}

void entmax_loss_backward(const TensorView& dloss, const TensorView& x, const TensorView& target,
                          const MutableTensorView& dx, float alpha, const LossOptions& options,
                          const Execution& execution) {
  require_alpha(alpha);
  require_input("x", x);
  require_output_like("dx", dx, "x", x);
  require_loss_input("dloss", dloss, {"x", x}, options.reduction);
  const ResolvedExecution resolved = resolve(execution);
  const LossTargets targets({"x", x}, target, options, resolved);
  require_weights_of_targets(targets, options);
  const UpstreamGradient upstream(dloss, options.reduction, targets);
  const std::int64_t scratch = 2 * targets.classes();
  for_each_slice({.in = {x, targets.distributions()},
                  .out = {dx},
                  .dim = targets.class_dim(),
                  .scratch = scratch},
                 resolved, [&](const Slice& slice) {
                   const double weight =
                       targets.ignored(slice.index) ? 0 : weight_of_slice(targets, slice.index);
                   gradient_of(targets, slice, alpha, weight * upstream[slice.index],
                               resolved.kernels);
                 });
}

void sparsemax_loss_backward(const TensorView& dloss, const TensorView& x, const TensorView& target,
                             const MutableTensorView& dx, const LossOptions& options,
                             const Execution& execution) {
  entmax_loss_backward(dloss, x, target, dx, 2, options, execution);
}

}  // namespace attn
