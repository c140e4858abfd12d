// The softmax family: functions of tensors along one dim, without state.
//
//   softmax       y_i = exp(x_i / T) / sum_j exp(x_j / T)               temperature T > 0
//   log_softmax   y_i = x_i / T - log sum_j exp(x_j / T)
//   logsumexp     out = log sum_j exp(x_j / T)
//   sparsemax     y_i = max(x_i - tau, 0)                               has exact zeros [1]
//   entmax        y_i = max((alpha - 1) x_i - tau, 0)^(1 / (alpha - 1))                 [2]
//
// [1] Martins and Astudillo 2016, arXiv:1602.02068
// [2] Peters, Niculae and Martins 2019, arXiv:1905.05702
//
// tau is the number that makes the sum of y 1. alpha = 1 is softmax, alpha = 2 is sparsemax.
//
// Shapes. x is any tensor of rank 1 or more. A slice is the elements along `dim` (counted from the
// last dim if it is negative; default -1) at one index of the other dims. Slices do not influence
// each other. y has the shape of x; what a slice has one of has the shape of x without `dim`. A
// tensor without elements is legal; logsumexp of a slice without elements is -inf.
//
// Types and memory. Each tensor is f32, bf16 or f16; results are computed in f32 and rounded once.
// Strides are any, but an output has no stride of 0. y may be the memory of x (with the same
// pointer, strides and type); otherwise outputs overlap no input.
//
// Values. The greatest element is subtracted first where it is needed, so nothing overflows. An
// element of -inf has probability 0. A slice of nothing but -inf gives zeros, for log_softmax and
// logsumexp -inf, and a gradient of zeros for logsumexp. A NaN or +inf makes all results of its
// slice NaN, because their sum is, and affects no other slice.
//
// Accuracy in f32 against the exact value: softmax has a relative error of at most 2e-7 for results
// above 1e-30, log_softmax an error of at most 2e-7 * max(1, |y|). For the baseline's instructions
// this is what the tests find; the bound that adds up all its rounding errors is 2.5e-7 for
// softmax. No result of log_softmax is above 0, and none of logsumexp is below the greatest x / T.
// The exponential itself, over every float from -87.33 to -2^-26, has an error of at most
// 0.70 ulp with AVX-512, 0.62 with AVX2 and 0.99 with the baseline's instructions.
//
// Errors. Each function checks its arguments before it writes anything, and throws
// Error(invalid_argument) with a message that names the tensor.
#pragma once

#include <attn/execution.hpp>
#include <attn/export.hpp>
#include <attn/tensor.hpp>

#include <cstdint>

namespace attn {

/// temperature is finite and > 0. Below 1 it moves probability to the maximum, above 1 it moves the
/// result toward the uniform distribution.
ATTN_API void softmax(const TensorView& x, const MutableTensorView& y, int dim = -1,
                      float temperature = 1, const Execution& execution = {});
ATTN_API void log_softmax(const TensorView& x, const MutableTensorView& y, int dim = -1,
                          float temperature = 1, const Execution& execution = {});
/// out has the shape of x without dim.
ATTN_API void logsumexp(const TensorView& x, const MutableTensorView& out, int dim = -1,
                        float temperature = 1, const Execution& execution = {});

/// dx = y (dy - sum_j dy_j y_j) / T, with y = softmax(x). dx may be dy or y.
ATTN_API void softmax_backward(const TensorView& dy, const TensorView& y,
                               const MutableTensorView& dx, int dim = -1, float temperature = 1,
                               const Execution& execution = {});
/// dx = (dy - exp(y) sum_j dy_j) / T, with y = log_softmax(x). dx may be dy or y.
ATTN_API void log_softmax_backward(const TensorView& dy, const TensorView& y,
                                   const MutableTensorView& dx, int dim = -1, float temperature = 1,
                                   const Execution& execution = {});
/// dx = dout exp(x / T - out) / T, with out = logsumexp(x). dx may be x.
ATTN_API void logsumexp_backward(const TensorView& dout, const TensorView& x, const TensorView& out,
                                 const MutableTensorView& dx, int dim = -1, float temperature = 1,
                                 const Execution& execution = {});

/// Optional outputs of sparsemax and entmax, in the shape of x without dim.
struct Threshold {
  /// f32: the tau of the formulas, which refer to x and not to x - max; for alpha = 1,
  /// logsumexp(x).
  MutableTensorView tau{};
  /// i64: the number of y_i > 0 before y is rounded to its type.
  MutableTensorView support{};
};

/// Computed exactly by selection. A slice with a NaN or +inf gives NaN, with tau NaN and support 0.
/// A slice of nothing but -inf gives zeros, with tau -inf and support 0.
ATTN_API void sparsemax(const TensorView& x, const MutableTensorView& y, int dim = -1,
                        const Threshold& threshold = {}, const Execution& execution = {});
/// entmax with alpha = 1.5, computed exactly by selection.
ATTN_API void entmax15(const TensorView& x, const MutableTensorView& y, int dim = -1,
                       const Threshold& threshold = {}, const Execution& execution = {});
/// alpha is finite and >= 1. For alpha = 1, 1.5 and 2 this is softmax, entmax15 and sparsemax. For
/// others tau is found in double by Newton's method within a bracket, to the rounding of f32. The
/// remaining error is removed from y: up to alpha = 2 by dividing y by its sum, beyond by giving
/// the last elements of the support what the others leave of 1.
ATTN_API void entmax(const TensorView& x, const MutableTensorView& y, float alpha, int dim = -1,
                     const Threshold& threshold = {}, const Execution& execution = {});

/// dx_i = s_i (dy_i - sum_j s_j dy_j / sum_j s_j), where s_i = y_i^(2 - alpha) on the support and 0
/// elsewhere, and y = entmax(x, alpha); for sparsemax alpha = 2. dx may be dy or y. dy outside the
/// support has no influence.
ATTN_API void sparsemax_backward(const TensorView& dy, const TensorView& y,
                                 const MutableTensorView& dx, int dim = -1,
                                 const Execution& execution = {});
ATTN_API void entmax_backward(const TensorView& dy, const TensorView& y,
                              const MutableTensorView& dx, float alpha, int dim = -1,
                              const Execution& execution = {});
/// The gradient with respect to alpha, one number for each slice: dalpha has the shape of y without
/// dim (Correia, Niculae and Martins 2019, arXiv:1909.00015, proposition 1, and its limit at
/// alpha = 1).
ATTN_API void entmax_backward_alpha(const TensorView& dy, const TensorView& y,
                                    const MutableTensorView& dalpha, float alpha, int dim = -1,
                                    const Execution& execution = {});

}  // namespace attn
