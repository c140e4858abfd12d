// Calls of losses, made up from seeds, and their losses by the formulas, in double, slice by slice.
#pragma once

#include <attn/loss.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "support/strided_tensor.hpp"

namespace attn::test {

enum class LossKind { nll, cross_entropy, entmax };

struct LossCase {
  LossKind kind = LossKind::cross_entropy;
  float alpha = 2;  // of entmax
  Dims shape{4, 5};
  DType x_type = DType::f32;
  DType target_type = DType::i64;  // of a float: distributions
  Layout layout = Layout::bhsd;
  bool weights = false;
  std::optional<std::int64_t> ignore_index{};
  float label_smoothing = 0;
  Reduction reduction = Reduction::mean;
  std::uint64_t seed = 1;

  bool of_classes() const { return target_type == DType::i32 || target_type == DType::i64; }
  std::string describe() const;
};

struct LossInputs {
  StridedTensor x, target, weight;
};
/// x is normal; classes meet ignore_index in every third slice or so; distributions have zeros, and
/// sums that are 1 but for rounding.
LossInputs make_loss_inputs(const LossCase& c);
LossOptions options_of(const LossCase& c, const LossInputs& inputs);
/// The shape of loss.
Dims loss_shape(const LossCase& c);

void run_loss(const LossCase& c, const LossInputs& inputs, const MutableTensorView& loss,
              const Execution& execution = {});
/// sparsemax's own function where alpha is 2.
void run_loss_backward(const LossCase& c, const LossInputs& inputs, const TensorView& dloss,
                       const MutableTensorView& dx, const Execution& execution = {});

/// Dense: how elements of x lie in slices.
struct SliceMap {
  explicit SliceMap(const Dims& shape);
  std::int64_t slices() const { return outer * inner; }
  std::size_t at(std::int64_t slice, std::int64_t of_class) const {
    return static_cast<std::size_t>((slice / inner * classes + of_class) * inner + slice % inner);
  }
  std::int64_t outer = 1, classes, inner = 1;
};

using Values = std::vector<double>;

Values entmax_of(const Values& x, double alpha, double* tau = nullptr);

class LossOracle {
 public:
  LossOracle(const LossCase& c, const LossInputs& inputs);

  const SliceMap& map() const { return map_; }
  bool ignored(std::int64_t slice) const;
  Values x_of(std::int64_t slice) const { return row_of(x_, slice); }
  /// Smoothed.
  Values q_of(std::int64_t slice) const;
  double weight(std::int64_t of_class) const {
    return weight_.empty() ? 1 : weight_[static_cast<std::size_t>(of_class)];
  }
  /// What a slice's weight multiplies in the losses of entmax.
  double weight_of(std::int64_t slice) const;
  /// Of the loss of one slice with other scores than its own; `plain` leaves x as it is in the
  /// losses of entmax, which is the same if q sums to 1.
  double loss_of(std::int64_t slice, const Values& x, bool plain = false) const;
  double loss_of(std::int64_t slice) const { return loss_of(slice, x_of(slice)); }
  /// How far off a float's arithmetic may be.
  double tolerance_of(std::int64_t slice) const;
  /// What a mean divides by; else 1.
  double divisor() const;
  /// In the shape of loss.
  Values losses() const;
  Values tolerances() const;

 private:
  Values row_of(const Values& values, std::int64_t slice) const;
  Values reduced(const Values& of_slices) const;

  LossCase case_;
  SliceMap map_;
  Values x_, target_, weight_;
};

}  // namespace attn::test
