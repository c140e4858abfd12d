// Random calls of losses, and their losses by the formulas in double, slice by slice.
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
  DType target_type = DType::i64;  // a float type: distributions
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
/// x is normally distributed; about every third target is ignore_index; distributions contain
/// zeros, and sum to 1 up to rounding.
LossInputs make_loss_inputs(const LossCase& c);
LossOptions options_of(const LossCase& c, const LossInputs& inputs);
/// The shape of the loss.
Dims loss_shape(const LossCase& c);

void run_loss(const LossCase& c, const LossInputs& inputs, const MutableTensorView& loss,
              const Execution& execution = {});
/// Calls sparsemax's own functions if alpha is 2.
void run_loss_backward(const LossCase& c, const LossInputs& inputs, const TensorView& dloss,
                       const MutableTensorView& dx, const Execution& execution = {});

/// The places of a slice's elements in dense x.
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
  /// The smoothed q.
  Values q_of(std::int64_t slice) const;
  double weight(std::int64_t of_class) const {
    return weight_.empty() ? 1 : weight_[static_cast<std::size_t>(of_class)];
  }
  /// What the weight of a slice multiplies in the losses of entmax.
  double weight_of(std::int64_t slice) const;
  /// The loss of a slice for other scores than its own. With `plain`, the losses of entmax use x as
  /// it is, which gives the same result if q sums to 1.
  double loss_of(std::int64_t slice, const Values& x, bool plain = false) const;
  double loss_of(std::int64_t slice) const { return loss_of(slice, x_of(slice)); }
  /// The tolerance for arithmetic in floats.
  double tolerance_of(std::int64_t slice) const;
  /// The divisor of a mean; 1 for other reductions.
  double divisor() const;
  /// The expected values in the shape of the loss.
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
