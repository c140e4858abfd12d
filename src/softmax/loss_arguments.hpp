// What all losses share: the checked targets and options, and the reduction of the losses of
// slices.
#pragma once

#include <attn/loss.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "iterate/slices.hpp"
#include "tensor/indexing.hpp"
#include "tensor/rounding.hpp"
#include "threads/parallel.hpp"

namespace attn::detail {

/// A tensor and what it is called in messages.
struct NamedView {
  const char* name;
  TensorView tensor;
};

/// Sums are taken over blocks of this size, whatever the number of threads, so that it does not
/// change their order.
inline constexpr std::int64_t block_of_slices = 4096;

/// Calls f(block, first, last) for each block of slices first, ..., last - 1.
template <class F>
void for_each_block(std::int64_t slices, const Threads& threads, F&& f) {
  const std::int64_t blocks = divide_up(slices, block_of_slices);
  parallel_for(threads_for(slices, threads), blocks, [&](std::int64_t block) {
    const std::int64_t first = block * block_of_slices;
    f(block, first, std::min(first + block_of_slices, slices));
  });
}

/// The sum of f(slice), in double.
template <class F>
double sum_over_slices(std::int64_t slices, const Threads& threads, F&& f) {
  std::vector<double> sums(static_cast<std::size_t>(divide_up(slices, block_of_slices)));
  for_each_block(slices, threads, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
    double sum = 0;
    for (std::int64_t slice = first; slice < last; ++slice) sum += f(slice);
    sums[static_cast<std::size_t>(block)] = sum;
  });
  double sum = 0;
  for (const double one : sums) sum += one;
  return sum;
}

/// The loss -log p. It is +0 for log p = 0, not -0.
inline double loss_of(double log_p) noexcept { return 0 - log_p; }

/// weight * loss, where 0 times an infinite loss is 0, not NaN.
inline double weighted(double weight, double loss) noexcept {
  return weight == 0 && std::isinf(loss) ? 0 : weight * loss;
}

/// The target of each slice, which is a class or a distribution q over classes, with the weights of
/// classes and the label smoothing that apply to it.
class LossTargets {
 public:
  /// Checks target and options against x, the tensor that has the classes, and checks the class of
  /// each slice. Throws Error.
  LossTargets(const NamedView& x, const TensorView& target, const LossOptions& options,
              const ResolvedExecution& execution);

  int class_dim() const noexcept { return class_dim_; }
  std::int64_t classes() const noexcept { return classes_; }
  std::int64_t slices() const noexcept { return slices_; }
  /// The distributions; absent if targets are classes.
  const TensorView& distributions() const noexcept { return distributions_; }
  /// Whether q is 1 for one class of each slice and 0 for the others: targets are classes, without
  /// smoothing.
  bool one_hot() const noexcept { return distributions_.absent() && smoothing_ == 0; }
  /// Whether q has only two values, and classes the same weight: targets are classes with
  /// smoothing. Then q is smoothing_share() for each class, plus target_share() for the target.
  bool evenly_smoothed() const noexcept {
    return distributions_.absent() && smoothing_ != 0 && weights_.empty();
  }
  /// What smoothing leaves to the target, or what it multiplies a distribution with.
  double target_share() const noexcept { return 1 - smoothing_; }
  /// What smoothing adds to q for each class.
  double smoothing_share() const noexcept { return smoothing_ / static_cast<double>(classes_); }
  /// What Reduction::mean divides the sum of losses by.
  double divisor() const noexcept { return divisor_; }

  bool ignored(std::int64_t slice) const noexcept {
    return distributions_.absent() && ignore_index_ && class_of(slice) == *ignore_index_;
  }
  /// The target class of a slice; requires that targets are classes.
  std::int64_t class_of(std::int64_t slice) const noexcept {
    return integer_at_offset(classes_of_slices_, offsets_.offset(slice));
  }
  /// The weight that the options give to a class.
  double weight(std::int64_t of_class) const noexcept {
    return weights_.empty() ? 1 : weights_[static_cast<std::size_t>(of_class)];
  }

  /// Calls f(c, q_c) for each class in order, with smoothed q_c. A distribution is read from the
  /// slice's in[1].
  template <class F>
  void for_each_class(const Slice& slice, F&& f) const {
    const double of_q = target_share(), of_all = smoothing_share();
    if (const float* q = slice.in[1]) {
      for (std::int64_t c = 0; c < classes_; ++c) f(c, of_q * q[c] + of_all);
    } else {
      const std::int64_t target = class_of(slice.index);
      for (std::int64_t c = 0; c < classes_; ++c) f(c, c == target ? of_q + of_all : of_all);
    }
  }

 private:
  void set_weights(const TensorView& weight, const char* x_name);
  double checked_sum_of_weights(const char* x_name, const Dims& shape,
                                const Threads& threads) const;

  int class_dim_ = 0;
  std::int64_t classes_ = 0, slices_ = 0;
  TensorView distributions_{};
  TensorView classes_of_slices_{};  // the target, if it has classes
  ElementOffsets offsets_;
  std::optional<std::int64_t> ignore_index_;
  double smoothing_ = 0;
  double divisor_ = 0;
  std::vector<float> weights_;  // for each class; empty if all are 1
};

/// Writes the losses of slices, or collects them for their sum or mean.
class LossReduction {
 public:
  /// `loss` has been checked.
  LossReduction(const MutableTensorView& loss, Reduction reduction, const LossTargets& targets);
  /// May be called from several threads at once.
  void set(std::int64_t slice, double loss) noexcept {
    if (losses_.empty())
      out_[slice] = static_cast<float>(loss);
    else
      losses_[static_cast<std::size_t>(slice)] = loss;
  }
  /// Writes the sum or the mean, after the loss of each slice was set.
  void finish(const Threads& threads);

 private:
  const LossTargets& targets_;
  Reduction reduction_;
  PerSlice<float> out_;
  std::vector<double> losses_;  // empty for Reduction::none
};

/// The gradient that each slice's loss receives: dloss, divided for a mean.
class UpstreamGradient {
 public:
  UpstreamGradient(const TensorView& dloss, Reduction reduction,
                   const LossTargets& targets) noexcept
      : dloss_(dloss),
        one_per_slice_(reduction == Reduction::none),
        divisor_(reduction == Reduction::mean ? targets.divisor() : 1) {}
  double operator[](std::int64_t slice) const noexcept {
    return dloss_[one_per_slice_ ? slice : 0] / divisor_;
  }

 private:
  PerSlice<const float> dloss_;
  bool one_per_slice_;
  double divisor_;
};

/// Checks loss or dloss: f32 of rank 0, or with Reduction::none one number for each slice of x.
void require_loss_input(const char* name, const TensorView& loss, const NamedView& x,
                        Reduction reduction);
void require_loss_output(const char* name, const MutableTensorView& loss, const NamedView& x,
                         Reduction reduction);

}  // namespace attn::detail
