// Losses of the softmax family: how far scores are from a target, which is a class or a
// distribution over classes.
//
//   nll_loss        sum_c w_c q_c l_c,   l_c = -p_c, where p holds log-probabilities
//   cross_entropy   sum_c w_c q_c l_c,   l_c = log sum_j exp(x_j) - x_c
//   sparsemax_loss  w_t L(x; q) with alpha = 2
//   entmax_loss     w_t L(x; q)
//
// cross_entropy is nll_loss(log_softmax(x)), computed without forming probabilities. L is a
// Fenchel-Young loss (Blondel, Martins and Niculae 2020, arXiv:1901.02324):
//
//   L(x; q) = (p - q) . x + H(p) - H(q),   p = entmax(x, alpha)
//   H(p) = (1 - sum_i p_i^alpha) / (alpha (alpha - 1))
//
// Its gradient is p - q. It is 0 if q = p and otherwise greater. If q does not sum to 1, the
// Bregman divergence of -H between q and p is computed, plus, for each class outside the support of
// p, what q has there times the distance of x from the support. That is the formula with x - tau /
// (alpha - 1) in place of x, and it is >= 0.
//
// Shapes. Classes are dim 1 of x [N, C, d1, d2, ...], or dim 0 of x [C]. A target is either a class
// t, i32 or i64 [N, d1, d2, ...] (rank 0 for x [C]), with q = 1 at t and 0 elsewhere, or a
// distribution q over classes, f32, bf16 or f16 in the shape of x. loss is f32 [N, d1, d2, ...]
// with Reduction::none and has rank 0 otherwise. Losses of slices and their sums are computed in
// double and rounded once, in an order that does not depend on the number of threads.
//
// Label smoothing by e replaces q_c by (1 - e) q_c + e / C. A class t then has
//
//   cross_entropy = (1 - e) w_t l_t + (e / C) sum_c w_c l_c
//
// Reductions. The mean is the sum of losses divided by the sum of w_t over the targets that are not
// ignored; with distributions it is divided by N d1 d2 .... If all targets are ignored, or there
// are none, the sum is 0 and the mean is NaN (0 / 0), as in PyTorch. An ignored target has loss and
// gradient 0, whatever x holds.
//
// Values. l_c of cross_entropy is never below 0, and so is no loss of it unless a weight or a q_c
// is; that of nll_loss is not either where log_p comes from log_softmax. A class with w_c q_c = 0
// contributes 0 even if l_c is infinite. So a score of -inf is fine for a class that no target
// names, and makes the loss inf for one that is. A NaN l_c makes the loss NaN, whatever its weight.
// A NaN or +inf in x makes all l_c of its slice NaN; a slice of nothing but -inf has l_c = inf for
// all c. The values of distributions and weights are not checked and follow the formulas;
// Fenchel-Young losses need q >= 0.
//
// Types, strides and errors are as in softmax.hpp. A target that is neither a class nor
// ignore_index throws Error(invalid_argument) with its position, before anything is written.
#pragma once

#include <attn/execution.hpp>
#include <attn/export.hpp>
#include <attn/tensor.hpp>

#include <cstdint>
#include <optional>

namespace attn {

enum class Reduction { none, sum, mean };

struct LossOptions {
  /// f32 [C], 1 for each class if absent. Fenchel-Young losses of distributions do not accept it.
  TensorView weight{};
  /// Any integer; targets equal to it are ignored. Distributions do not accept it.
  std::optional<std::int64_t> ignore_index{};
  float label_smoothing = 0;  // in 0..1
  Reduction reduction = Reduction::mean;
};

ATTN_API void nll_loss(const TensorView& log_p, const TensorView& target,
                       const MutableTensorView& loss, const LossOptions& options = {},
                       const Execution& execution = {});
ATTN_API void cross_entropy(const TensorView& x, const TensorView& target,
                            const MutableTensorView& loss, const LossOptions& options = {},
                            const Execution& execution = {});
ATTN_API void sparsemax_loss(const TensorView& x, const TensorView& target,
                             const MutableTensorView& loss, const LossOptions& options = {},
                             const Execution& execution = {});
/// alpha is as in entmax. alpha = 1 is the limit, cross_entropy less the entropy of q:
/// sum_c q_c log(q_c / p_c) + 1 - sum_c q_c.
ATTN_API void entmax_loss(const TensorView& x, const TensorView& target,
                          const MutableTensorView& loss, float alpha,
                          const LossOptions& options = {}, const Execution& execution = {});

// Gradients with respect to x, or log_p: dx has its shape, and dloss is f32 in the shape of loss.
//
//   nll_loss              - w_c q_c
//   cross_entropy         p_c sum_j w_j q_j - w_c q_c,   p = softmax(x)
//   Fenchel-Young losses  w_t (p_c - q_c)
//
// They are multiplied by dloss, and divided as the mean is.

ATTN_API void nll_loss_backward(const TensorView& dloss, const TensorView& target,
                                const MutableTensorView& dlog_p, const LossOptions& options = {},
                                const Execution& execution = {});
/// dx may be x.
ATTN_API void cross_entropy_backward(const TensorView& dloss, const TensorView& x,
                                     const TensorView& target, const MutableTensorView& dx,
                                     const LossOptions& options = {},
                                     const Execution& execution = {});
ATTN_API void sparsemax_loss_backward(const TensorView& dloss, const TensorView& x,
                                      const TensorView& target, const MutableTensorView& dx,
                                      const LossOptions& options = {},
                                      const Execution& execution = {});
ATTN_API void entmax_loss_backward(const TensorView& dloss, const TensorView& x,
                                   const TensorView& target, const MutableTensorView& dx,
                                   float alpha, const LossOptions& options = {},
                                   const Execution& execution = {});

}  // namespace attn
