// The losses of log-probabilities and of logits: l_c = -log p_c, which cross_entropy takes from the
// logits without forming p.
#include <attn/loss.hpp>

#include <algorithm>
#include <cstddef>

#include "softmax/arguments.hpp"
#include "softmax/log_probabilities.hpp"
#include "softmax/loss_arguments.hpp"
#include "softmax/row_functions.hpp"

namespace attn {
using namespace detail;
namespace {

/// sum_c w_c q_c l(c), l(c) being the loss of class c.
template <class LossOfClass>
double loss_of_slice(const Targets& targets, const Slice& slice, LossOfClass l) {
  if (targets.one_class_counts()) {
    const std::int64_t target = targets.class_of(slice.index);
    return weighed(targets.weight(target), l(target));
  }
  double sum = 0;
  targets.for_each_class(
      slice, [&](std::int64_t c, double q) { sum += weighed(targets.weight(c) * q, l(c)); });
  return sum;
}

/// One element of a tensor of any float type.
float element_at(const TensorView& tensor, std::int64_t offset, const kernels::Kernels& kernels) {
  auto* const data = static_cast<std::byte*>(const_cast<void*>(tensor.data));
  float value = 0;
  read_row({data + offset * static_cast<std::int64_t>(size_of(tensor.dtype)), tensor.dtype, 1}, 1,
           kernels, &value);
  return value;
}

/// Where one class of each slice counts, the others are not read.
void gather_losses(const TensorView& log_p, const Targets& targets,
                   const ResolvedExecution& resources, Losses& losses) {
  const int dim = targets.class_dim();
  const ElementOffsets positions(remove_dim(log_p.shape, dim), remove_dim(log_p.strides, dim));
  for_each_block(targets.slices(), resources.num_threads,
                 [&](std::int64_t, std::int64_t first, std::int64_t last) {
                   for (std::int64_t slice = first; slice < last; ++slice) {
                     if (targets.ignored(slice)) {
                       losses.set(slice, 0);
                       continue;
                     }
                     const std::int64_t target = targets.class_of(slice);
                     const double p =
                         element_at(log_p, positions.offset(slice) + target * log_p.strides[dim],
                                    resources.kernels);
                     losses.set(slice, weighed(targets.weight(target), -p));
                   }
                 });
}

double cross_entropy_of(const Targets& targets, const Slice& slice, const LogSum& log_sum) {
  if (targets.ignored(slice.index)) return 0;
  const LogProbabilities log_p(slice.in[0], slice.extent, log_sum);
  if (targets.evenly_smoothed()) {
    return weighed(targets.kept(), -log_p[targets.class_of(slice.index)]) -
           targets.share() * log_p.sum();
  }
  return loss_of_slice(targets, slice, [&](std::int64_t c) { return -log_p[c]; });
}

/// dx_c = factor w_c (p_c - [c == target])
void one_class_gradient(const Slice& slice, std::int64_t target, double factor,
                        const kernels::Kernels& kernels) {
  float* const dx = slice.out[0];
  const double of_target = factor * dx[target] - factor;
  kernels.scale(dx, slice.extent, static_cast<float>(factor), dx);
  dx[target] = static_cast<float>(of_target);
}

/// The slice's dx is softmax of x, and becomes the gradient.
void cross_entropy_gradient(const Targets& targets, const Slice& slice, double factor,
                            const kernels::Kernels& kernels) {
  float* const dx = slice.out[0];
  if (targets.ignored(slice.index)) {
    std::fill(dx, dx + slice.extent, 0.f);
    return;
  }
  if (targets.one_class_counts()) {
    const std::int64_t target = targets.class_of(slice.index);
    return one_class_gradient(slice, target, factor * targets.weight(target), kernels);
  }
  double whole = 0;
  targets.for_each_class(slice, [&](std::int64_t c, double q) { whole += targets.weight(c) * q; });
  targets.for_each_class(slice, [&](std::int64_t c, double q) {
    dx[c] = static_cast<float>(factor * (whole * dx[c] - targets.weight(c) * q));
  });
}

void nll_gradient(const Targets& targets, const Slice& slice, double factor) {
  float* const dlog_p = slice.out[0];
  const auto minus = [&](double weight) { return static_cast<float>(weighed(weight, -factor)); };
  if (targets.distributions().absent()) std::fill(dlog_p, dlog_p + slice.extent, 0.f);
  if (targets.ignored(slice.index)) return;
  if (targets.one_class_counts()) {
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
  const ResolvedExecution resources = resolve(execution);
  const Targets targets({"log_p", log_p}, target, options, resources);
  Losses losses(loss, options.reduction, targets);
  if (targets.one_class_counts()) {
    gather_losses(log_p, targets, resources, losses);
  } else {
    for_each_slice({.in = {log_p, targets.distributions()}, .dim = targets.class_dim()}, resources,
                   [&](const Slice& slice) {
                     const double sum = targets.ignored(slice.index)
                                            ? 0
                                            : loss_of_slice(targets, slice, [&](std::int64_t c) {
                                                return -double{slice.in[0][c]};
                                              });
                     losses.set(slice.index, sum);
                   });
  }
  losses.finish(resources.num_threads);
}

void cross_entropy(const TensorView& x, const TensorView& target, const MutableTensorView& loss,
                   const LossOptions& options, const Execution& execution) {
  require_input("x", x);
  require_loss_output("loss", loss, {"x", x}, options.reduction);
  const ResolvedExecution resources = resolve(execution);
  const Targets targets({"x", x}, target, options, resources);
  Losses losses(loss, options.reduction, targets);
  for_each_slices({.in = {x, targets.distributions()}, .dim = targets.class_dim()}, resources,
                  [&](const Slices& slices) {
                    LogSum log_sums[kernels::rows_at_once];
                    log_sum_rows(resources.kernels, slices.in[0], log_sums);
                    for (std::int64_t n = 0; n < slices.count; ++n) {
                      losses.set(slices.first + n,
                                 cross_entropy_of(targets, slices.slice(n), log_sums[n]));
                    }
                  });
  losses.finish(resources.num_threads);
}

void nll_loss_backward(const TensorView& dloss, const TensorView& target,
                       const MutableTensorView& dlog_p, const LossOptions& options,
                       const Execution& execution) {
  require_input("dlog_p", dlog_p);
  require_output_like("dlog_p", dlog_p, "dlog_p", dlog_p);
  require_loss_input("dloss", dloss, {"dlog_p", dlog_p}, options.reduction);
  const ResolvedExecution resources = resolve(execution);
  const Targets targets({"dlog_p", dlog_p}, target, options, resources);
  const Factors factors(dloss, options.reduction, targets);
  for_each_slice(
      {.in = {TensorView{}, targets.distributions()}, .out = {dlog_p}, .dim = targets.class_dim()},
      resources, [&](const Slice& slice) { nll_gradient(targets, slice, factors[slice.index]); });
}

void cross_entropy_backward(const TensorView& dloss, const TensorView& x, const TensorView& target,
                            const MutableTensorView& dx, const LossOptions& options,
                            const Execution& execution) {
  require_input("x", x);
  require_output_like("dx", dx, "x", x);
  require_loss_input("dloss", dloss, {"x", x}, options.reduction);
  const ResolvedExecution resources = resolve(execution);
  const Targets targets({"x", x}, target, options, resources);
  const Factors factors(dloss, options.reduction, targets);
  for_each_slices({.in = {x, targets.distributions()}, .out = {dx}, .dim = targets.class_dim()},
                  resources, [&](const Slices& slices) {
                    softmax_rows(resources.kernels, slices.in[0], 1, slices.out[0]);
                    for (std::int64_t n = 0; n < slices.count; ++n) {
                      cross_entropy_gradient(targets, slices.slice(n), factors[slices.first + n],
                                             resources.kernels);
                    }
                  });
}

}  // namespace attn
