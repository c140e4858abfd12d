// Losses of the softmax family: how far scores are from the class, or the distribution over classes, that they should tell.
//
//   nll_loss       -w_t p_t                 p: log-probabilities
//   cross_entropy  nll_loss(log_softmax(x)), fused: probabilities are never formed
//   sparsemax_loss, entmax_loss             Fenchel-Young losses (Blondel, Martins and Niculae 2020, arXiv:1901.02324):
//                                           L(x; q) = (p - q) . x + H(p) - H(q),  p = entmax(x, alpha),
//                                           H(p) = (1 - sum_i p_i^alpha) / (alpha (alpha - 1)); the gradient is p - q
//
// Shapes. Classes are dim 1 of x [N, C, d1, d2, ...], dim 0 of x [C]. A target is a class index, i32 or i64 [N, d1, ...] (rank 0 for
// [C]), or a distribution over classes, f32, bf16 or f16 in the shape of x. loss is f32 [N, d1, ...] with Reduction::none, else rank 0.
//
// Weights, smoothing and means, for a target t (a distribution q is the sum of its classes):
//
//   loss = (1 - e) w_t l_t + (e / C) sum_c w_c l_c          l_c the loss of class c, e the label smoothing
//   mean = sum of losses / sum of w_t                       over the targets that are not ignored; with distributions, / (N d1 ...)
//
// If all targets are ignored, mean is NaN (0 / 0), as elsewhere. -inf for a class of weight 0 or of probability 0 costs nothing.
//
// Types, strides and errors are as in softmax.hpp. A target that is neither a class nor ignore_index is an Error(invalid_argument) that
// names its position; nothing has been written then.
#pragma once

#include <attn/execution.hpp>
#include <attn/tensor.hpp>

#include <cstdint>
#include <optional>

namespace attn {

enum class Reduction { none, sum, mean };

struct LossOptions {
  TensorView weight{};                         // f32 [C]; default: 1
  std::optional<std::int64_t> ignore_index{};  // any integer; targets equal to it count for nothing. Not with distributions
  float label_smoothing = 0;                   // in 0..1
  Reduction reduction = Reduction::mean;
};

void nll_loss(const TensorView& log_p, const TensorView& target, const MutableTensorView& loss, const LossOptions& options = {},
              const Execution& execution = {});
void cross_entropy(const TensorView& x, const TensorView& target, const MutableTensorView& loss, const LossOptions& options = {},
                   const Execution& execution = {});
void sparsemax_loss(const TensorView& x, const TensorView& target, const MutableTensorView& loss, const LossOptions& options = {},
                    const Execution& execution = {});
/// alpha as in entmax; alpha = 1 is cross_entropy less the entropy of the target distribution.
void entmax_loss(const TensorView& x, const TensorView& target, const MutableTensorView& loss, float alpha, const LossOptions& options = {},
                 const Execution& execution = {});

/// Gradients in the first argument of the function: dx (of its shape) from dloss, f32, of the shape of loss.
void nll_loss_backward(const TensorView& dloss, const TensorView& target, const MutableTensorView& dlog_p, const LossOptions& options = {},
                       const Execution& execution = {});
/// dx may be x.
void cross_entropy_backward(const TensorView& dloss, const TensorView& x, const TensorView& target, const MutableTensorView& dx,
                            const LossOptions& options = {}, const Execution& execution = {});
void sparsemax_loss_backward(const TensorView& dloss, const TensorView& x, const TensorView& target, const MutableTensorView& dx,
                             const LossOptions& options = {}, const Execution& execution = {});
void entmax_loss_backward(const TensorView& dloss, const TensorView& x, const TensorView& target, const MutableTensorView& dx, float alpha,
                          const LossOptions& options = {}, const Execution& execution = {});

}  // namespace attn
