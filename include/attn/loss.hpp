// Losses of the softmax family: how far scores are from the class, or the distribution over
// classes, that they should tell.
//
//   nll_loss       sum_c w_c q_c l_c        l_c = -p_c, p: log-probabilities
//   cross_entropy  sum_c w_c q_c l_c        l_c = log sum_j exp(x_j) - x_c:
//   nll_loss(log_softmax(x)); probabilities are never formed sparsemax_loss, entmax_loss w_t L(x;
//   q), Fenchel-Young losses (Blondel, Martins and Niculae 2020, arXiv:1901.02324):
//                                           L(x; q) = (p - q) . x + H(p) - H(q),  p = entmax(x,
//                                           alpha), H(p) = (1 - sum_i p_i^alpha) / (alpha (alpha -
//                                           1)); the gradient is p - q
//
// Shapes. Classes are dim 1 of x [N, C, d1, d2, ...], dim 0 of x [C]. A target is a class t, i32 or
// i64 [N, d1, ...] (rank 0 for [C]), which has the q that is 1 at t and else 0; or a distribution q
// over classes, f32, bf16 or f16 in the shape of x. loss is f32 [N, d1, ...] with Reduction::none,
// else rank 0. Losses of slices and their sums are doubles, rounded once, in an order that no
// number of threads changes.
//
// Smoothing by e puts (1 - e) q_c + e / C in place of q_c, so that a class t has
//
//   cross_entropy = (1 - e) w_t l_t + (e / C) sum_c w_c l_c
//
// mean = sum of losses / sum of w_t over the targets that are not ignored; with distributions, sum
// of losses / (N d1 d2 ...). If all targets are ignored, or there are none, sum is 0 and mean is
// NaN (0 / 0), as elsewhere. Ignored targets have loss and gradient 0, whatever x holds.
//
// Values. Where a weight w_c q_c is 0, an infinite l_c costs nothing; so -inf is fine as the score
// of a class that nothing asks for, and makes the loss inf for one that something does. NaN costs
// NaN, whatever its weight, if l_c has a part in the formula; a NaN or +inf in x makes all its l_c
// NaN. A slice of nothing but -inf has l_c = inf for all c. Values of distributions and weights are
// not checked and follow the formulas; Fenchel-Young losses need q >= 0.
//
// L is 0 if q = p, and else greater. If q does not sum to 1, what L computes is the Bregman
// divergence of -H between q and p, with what q has outside of p's support times how far x is from
// it: also >= 0 (the formula with x - tau / (alpha - 1) for x).
//
// Types, strides and errors are as in softmax.hpp. A target that is neither a class nor
// ignore_index is an Error(invalid_argument) that names its position; nothing has been written
// then.
#pragma once

#include <attn/execution.hpp>
#include <attn/tensor.hpp>

#include <cstdint>
#include <optional>

namespace attn {

enum class Reduction { none, sum, mean };

struct LossOptions {
  TensorView weight{};  // f32 [C]; default: 1. Fenchel-Young losses of distributions refuse it
  std::optional<std::int64_t> ignore_index{};  // any integer; targets equal to it count for
                                               // nothing. Distributions refuse it
  float label_smoothing = 0;                   // in 0..1
  Reduction reduction = Reduction::mean;
};

void nll_loss(const TensorView& log_p, const TensorView& target, const MutableTensorView& loss,
              const LossOptions& options = {}, const Execution& execution = {});
void cross_entropy(const TensorView& x, const TensorView& target, const MutableTensorView& loss,
                   const LossOptions& options = {}, const Execution& execution = {});
void sparsemax_loss(const TensorView& x, const TensorView& target, const MutableTensorView& loss,
                    const LossOptions& options = {}, const Execution& execution = {});
/// alpha as in entmax; alpha = 1, the limit, is cross_entropy less the entropy of q, sum_c q_c
/// log(q_c / p_c) (+ 1 - sum_c q_c).
void entmax_loss(const TensorView& x, const TensorView& target, const MutableTensorView& loss,
                 float alpha, const LossOptions& options = {}, const Execution& execution = {});

/// Gradients in the first argument of the function: dx (of its shape) from dloss, f32, of the shape
/// of loss.
///   nll_loss -w_c q_c    cross_entropy p_c sum_j w_j q_j - w_c q_c, p = softmax(x) Fenchel-Young
///   w_t (p_c - q_c)
void nll_loss_backward(const TensorView& dloss, const TensorView& target,
                       const MutableTensorView& dlog_p, const LossOptions& options = {},
                       const Execution& execution = {});
/// dx may be x.
void cross_entropy_backward(const TensorView& dloss, const TensorView& x, const TensorView& target,
                            const MutableTensorView& dx, const LossOptions& options = {},
                            const Execution& execution = {});
void sparsemax_loss_backward(const TensorView& dloss, const TensorView& x, const TensorView& target,
                             const MutableTensorView& dx, const LossOptions& options = {},
                             const Execution& execution = {});
void entmax_loss_backward(const TensorView& dloss, const TensorView& x, const TensorView& target,
                          const MutableTensorView& dx, float alpha, const LossOptions& options = {},
                          const Execution& execution = {});

}  // namespace attn
