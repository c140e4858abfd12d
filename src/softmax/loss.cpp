// Negative log-likelihood and cross-entropy: l_c = -log p_c is the loss of class c. cross_entropy
// computes it from the logits and never forms p.
#include <attn/loss.hpp>

#include <algorithm>
#include <cstddef>

#include "softmax/log_probabilities.hpp"
#include "softmax/loss_arguments.hpp"
#include "softmax/row_functions.hpp"
#include "tensor/arguments.hpp"

namespace attn {
using namespace detail;
namespace {

/// sum_c w_c q_c l(c), where l(c) is the loss of class c.
template <class LossOfClass>
double loss_of_slice(const LossTargets& targets, const Slice& slice, LossOfClass l) {
  if (targets.one_hot()) {
    const std::int64_t target = targets.class_of(slice.index);
    return weighted(targets.weight(target), l(target));
  }
  double sum = 0;
  targets.for_each_class(
      slice, [&](std::int64_t c, double q) { sum += weighted(targets.weight(c) * q, l(c)); });
  return sum;
}

/// The losses of slices in which one class counts. The other classes are not read.
void gather_losses(const TensorView& log_p, const LossTargets& targets,
                   const ResolvedExecution& resolved, LossReduction& losses) {
  const SliceRows slices(log_p, targets.class_dim());
  for_each_block(targets.slices(), resolved.threads,
                 [&](std::int64_t, std::int64_t first, std::int64_t last) {
                   for (std::int64_t slice = first; slice < last; ++slice) {
                     if (targets.ignored(slice)) {
                       losses.set(slice, 0);
                       continue;
                     }
                     const std::int64_t target = targets.class_of(slice);
                     float log_p_target = 0;
                     read_row(slices[slice].from(target), 1, resolved.kernels, &log_p_target);
                     losses.set(slice, weighted(targets.weight(target), loss_of(log_p_target)));
                   }
                 });
}

double cross_entropy_of(const LossTargets& targets, const Slice& slice, const LogSum& log_sum) {
  if (targets.ignored(slice.index)) return 0;
  const LogProbabilities log_p(slice.in[0], slice.extent, log_sum);
  if (targets.evenly_smoothed()) {
    return weighted(targets.target_share(), loss_of(log_p[targets.class_of(slice.index)])) -
           targets.smoothing_share() * log_p.sum();
  }
  return loss_of_slice(targets, slice, [&](std::int64_t c) { return loss_of(log_p[c]); });
}

/// dx_c = factor (p_c - [c == target]), where the slice's dx holds p at first.
void one_class_gradient(const Slice& slice, std::int64_t target, double factor,
                        const kernels::Kernels& kernels) {
  float* const dx = slice.out[0];
  const double of_target = factor * dx[target] - factor;
  kernels.scale(dx, slice.extent, static_cast<float>(factor), dx);
  dx[target] = static_cast<float>(of_target);
}

/// dx_c = factor (p_c sum_j w_j q_j - w_c q_c), where the slice's dx holds p = softmax(x) at first.
void cross_entropy_gradient(const LossTargets& targets, const Slice& slice, double factor,
                            const kernels::Kernels& kernels) {
  float* const dx = slice.out[0];
  if (targets.ignored(slice.index)) {
    std::fill(dx, dx + slice.extent, 0.f);
    return;
  }
  if (targets.one_hot()) {
    const std::int64_t target = targets.class_of(slice.index);
    return one_class_gradient(slice, target, factor * targets.weight(target), kernels);
  }
  double sum = 0;
  targets.for_each_class(slice, [&](std::int64_t c, double q) { sum += targets.weight(c) * q; });
  targets.for_each_class(slice, [&](std::int64_t c, double q) {
    dx[c] = static_cast<float>(factor * (sum * dx[c] - targets.weight(c) * q));
  });
}

/// dlog_p_c = - factor w_c q_c
void nll_gradient(const LossTargets& targets, const Slice& slice, double factor) {
  float* const dlog_p = slice.out[0];
  const auto minus = [&](double weight) { return static_cast<float>(weighted(weight, -factor)); };
  if (targets.distributions().absent()) std::fill(dlog_p, dlog_p + slice.extent, 0.f);
  if (targets.ignored(slice.index)) return;
  if (targets.one_hot()) {
    const std::int64_t target = targets.class_of(slice.index);
    dlog_p[target] = minus(targets.weight(target));
    return;
  }
  targets.for_each_class(
      slice, [&](std::int64_t c, double q) { dlog_p[c] = minus(targets.weight(c) * q); });
}

}  // namespace

void nll_loss(const TensorView& log_p, const TensorView& target, const MutableTensorView& loss,
              const LossOptions& options, const Execution& execution) {
  require_input("log_p", log_p);
  require_loss_output("loss", loss, {"log_p", log_p}, options.reduction);
  const ResolvedExecution resolved = resolve(execution);
  const LossTargets targets({"log_p", log_p}, target, options, resolved);
  LossReduction losses(loss, options.reduction, targets);
  if (targets.one_hot()) {
    gather_losses(log_p, targets, resolved, losses);
  } else {
    for_each_slice({.in = {log_p, targets.distributions()}, .dim = targets.class_dim()}, resolved,
                   [&](const Slice& slice) {
                     const double sum = targets.ignored(slice.index)
                                            ? 0
                                            : loss_of_slice(targets, slice, [&](std::int64_t c) {
                                                return loss_of(slice.in[0][c]);
                                              });
                     losses.set(slice.index, sum);
                   });
  }
  losses.finish(resolved.threads);
}

void cross_entropy(const TensorView& x, const TensorView& target, const MutableTensorView& loss,
                   const LossOptions& options, const Execution& execution) {
  require_input("x", x);
  require_loss_output("loss", loss, {"x", x}, options.reduction);
  const ResolvedExecution resolved = resolve(execution);
  const LossTargets targets({"x", x}, target, options, resolved);
  LossReduction losses(loss, options.reduction, targets);
  for_each_slice_group({.in = {x, targets.distributions()}, .dim = targets.class_dim()}, resolved,
                       [&](const SliceGroup& group) {
                         LogSum log_sums[kernels::rows_at_once];
                         log_sum_rows(resolved.kernels, group.in[0], log_sums);
                         for (std::int64_t n = 0; n < group.count; ++n) {
                           losses.set(group.first + n,
                                      cross_entropy_of(targets, group.slice(n), log_sums[n]));
                         }
                       });
  losses.finish(resolved.threads);
}

void nll_loss_backward(const TensorView& dloss, const TensorView& target,
                       const MutableTensorView& dlog_p, const LossOptions& options,
                       const Execution& execution) {
  require_input("dlog_p", dlog_p);
  require_output_like("dlog_p", dlog_p, "dlog_p", dlog_p);
  require_loss_input("dloss", dloss, {"dlog_p", dlog_p}, options.reduction);
  const ResolvedExecution resolved = resolve(execution);
  const LossTargets targets({"dlog_p", dlog_p}, target, options, resolved);
  const UpstreamGradient upstream(dloss, options.reduction, targets);
  for_each_slice(
      {.in = {TensorView{}, targets.distributions()}, .out = {dlog_p}, .dim = targets.class_dim()},
      resolved, [&](const Slice& slice) { nll_gradient(targets, slice, upstream[slice.index]); });
}

void cross_entropy_backward(const TensorView& dloss, const TensorView& x, const TensorView& target,
                            const MutableTensorView& dx, const LossOptions& options,
                            const Execution& execution) {
  require_input("x", x);
  require_output_like("dx", dx, "x", x);
  require_loss_input("dloss", dloss, {"x", x}, options.reduction);
  const ResolvedExecution resolved = resolve(execution);
  const LossTargets targets({"x", x}, target, options, resolved);
  const UpstreamGradient upstream(dloss, options.reduction, targets);
  for_each_slice_group(
      {.in = {x, targets.distributions()}, .out = {dx}, .dim = targets.class_dim()}, resolved,
      [&](const SliceGroup& group) {
        softmax_rows(resolved.kernels, group.in[0], 1, group.out[0]);
        for (std::int64_t n = 0; n < group.count; ++n) {
          cross_entropy_gradient(targets, group.slice(n), upstream[group.first + n],
                                 resolved.kernels);
        }
      });
}

}  // namespace attn
