// What the losses share: their targets and options, checked once, and what becomes of the losses of
// slices.
#pragma once

#include <attn/loss.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "softmax/slices.hpp"
#include "threads/parallel.hpp"

namespace attn::detail {

/// A tensor and what it is called in messages.
struct NamedView {
  const char* name;
  TensorView tensor;
};

/// Blocks that do not depend on threads, and so neither does the order of what is summed in them.
inline constexpr std::int64_t block_of_slices = 4096;

/// Calls f(block, first, last) for each block of slices first, ..., last - 1.
template <class F>
void for_each_block(std::int64_t slices, int num_threads, F&& f) {
  const std::int64_t blocks = (slices + block_of_slices - 1) / block_of_slices;
  parallel_for(threads_for(slices, num_threads), blocks, [&](std::int64_t block) {
    const std::int64_t first = block * block_of_slices;
    f(block, first, std::min(first + block_of_slices, slices));
  });
}

/// The sum of f(slice), in double.
template <class F>
double sum_over_slices(std::int64_t slices, int num_threads, F&& f) {
  std::vector<double> sums(
      static_cast<std::size_t>((slices + block_of_slices - 1) / block_of_slices));
  for_each_block(slices, num_threads,
                 [&](std::int64_t block, std::int64_t first, std::int64_t last) {
                   double sum = 0;
                   for (std::int64_t slice = first; slice < last; ++slice) sum += f(slice);
                   sums[static_cast<std::size_t>(block)] = sum;
                 });
  double sum = 0;
  for (const double one : sums) sum += one;
  return sum;
}

/// 0 times an infinite loss is 0; all else is as IEEE 754 has it.
inline double weighed(double weight, double loss) noexcept {
  return weight == 0 && std::isinf(loss) ? 0 : weight * loss;
}

/// The target of each slice, a class or a distribution q over classes, and the options that say
/// what it counts.
class Targets {
 public:
  /// Checks x, which has the classes, against target and options, and each class; throws Error.
  Targets(const NamedView& x, const TensorView& target, const LossOptions& options,
          const ResolvedExecution& resources);

  int class_dim() const noexcept { return class_dim_; }
  std::int64_t classes() const noexcept { return classes_; }
  std::int64_t slices() const noexcept { return slices_; }
  /// The distributions; absent where targets are classes.
  const TensorView& distributions() const noexcept { return distributions_; }
  /// Targets are classes, and nothing is smoothed: one class of each slice counts.
  bool one_class_counts() const noexcept { return distributions_.absent() && smoothing_ == 0; }
  /// Targets are classes, smoothed, and classes count equally: q is share() for each, and kept() more
  /// for the target.
  bool evenly_smoothed() const noexcept {
    return distributions_.absent() && smoothing_ != 0 && weights_.empty();
  }
  double kept() const noexcept { return 1 - smoothing_; }
  double share() const noexcept { return smoothing_ / static_cast<double>(classes_); }
  /// What a mean divides by.
  double divisor() const noexcept { return divisor_; }

  bool ignored(std::int64_t slice) const noexcept {
    return distributions_.absent() && ignore_index_ && class_of(slice) == *ignore_index_;
  }
  /// Where targets are classes.
  std::int64_t class_of(std::int64_t slice) const noexcept {
    const std::int64_t offset = positions_.offset(slice);
    return wide_ ? static_cast<const std::int64_t*>(data_)[offset]
                 : static_cast<const std::int32_t*>(data_)[offset];
  }
  double weight(std::int64_t of_class) const noexcept {
    return weights_.empty() ? 1 : weights_[static_cast<std::size_t>(of_class)];
  }

  /// Calls f(c, q_c) for each class in order, with q_c smoothed. The distribution is the slice's
  /// in[1].
  template <class F>
  void for_each_class(const Slice& slice, F&& f) const {
    const double of_q = kept(), of_all = share();
    if (const float* q = slice.in[1]) {
      for (std::int64_t c = 0; c < classes_; ++c) f(c, of_q * q[c] + of_all);
    } else {
      const std::int64_t target = class_of(slice.index);
      for (std::int64_t c = 0; c < classes_; ++c) f(c, c == target ? of_q + of_all : of_all);
    }
  }

 private:
  void set_weights(const TensorView& weight, const char* x_name);
  double checked_sum_of_weights(const char* x_name, const Dims& shape, int num_threads) const;

  int class_dim_ = 0;
  std::int64_t classes_ = 0, slices_ = 0;
  TensorView distributions_{};
  const void* data_ = nullptr;  // of classes
  bool wide_ = false;           // i64, else i32
  ElementOffsets positions_;
  std::optional<std::int64_t> ignore_index_;
  double smoothing_ = 0;
  double divisor_ = 0;
  std::vector<float> weights_;  // none: 1
};

/// The losses of slices on their way to their reduction.
class Losses {
 public:
  /// `loss` has been checked.
  Losses(const MutableTensorView& loss, Reduction reduction, const Targets& targets);
  /// From several threads at once.
  void set(std::int64_t slice, double loss) noexcept {
    if (kept_.empty())
      out_[slice] = static_cast<float>(loss);
    else
      kept_[static_cast<std::size_t>(slice)] = loss;
  }
  /// After the last one.
  void finish(int num_threads);

 private:
  const Targets& targets_;
  Reduction reduction_;
  PerSlice<float, void> out_;
  std::vector<double> kept_;  // for a sum
};

/// The factor of a slice's gradient that comes from outside: dloss, over the divisor of a mean.
class Factors {
 public:
  Factors(const TensorView& dloss, Reduction reduction, const Targets& targets) noexcept
      : values_(dloss),
        each_(reduction == Reduction::none),
        divisor_(reduction == Reduction::mean ? targets.divisor() : 1) {}
  double operator[](std::int64_t slice) const noexcept {
    return values_[each_ ? slice : 0] / divisor_;
  }

 private:
  PerSlice<const float, const void> values_;
  bool each_;
  double divisor_;
};

/// loss or dloss: f32 [], or with Reduction::none one for each slice of x.
void require_loss_input(const char* name, const TensorView& loss, const NamedView& x,
                        Reduction reduction);
void require_loss_output(const char* name, const MutableTensorView& loss, const NamedView& x,
                         Reduction reduction);

}  // namespace attn::detail
