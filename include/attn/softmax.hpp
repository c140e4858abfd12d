// The softmax family: functions of tensors along one dim, without state.
//
//   softmax      y_i = exp(x_i / T) / sum_j exp(x_j / T)          dense, temperature T > 0
//   log_softmax  y_i = x_i / T - log sum_j exp(x_j / T)
//   logsumexp    out = log sum_j exp(x_j / T)
//   sparsemax    y_i = max(x_i - tau, 0)                           exact zeros; Martins and
//   Astudillo 2016, arXiv:1602.02068 entmax       y_i = max((alpha - 1) x_i - tau, 0)^(1 / (alpha -
//   1))   Peters, Niculae and Martins 2019, arXiv:1905.05702
//
// alpha = 1 is softmax, alpha = 2 sparsemax; tau makes the sum 1.
//
// Shapes. x is any tensor of rank 1 or more; a slice is what lies along `dim` (negative: counted
// from the last, -1), and slices know nothing of each other. y has the shape of x; what there is
// one of in each slice has the shape of x without `dim`. Types. f32, bf16 and f16, each tensor its
// own; computed in f32 and rounded once. Strides: any, 0 (broadcast) for inputs only. y may be the
// very memory of x (same pointer, strides and type), and overlaps no input otherwise. A tensor
// without elements is legal; a slice without elements has logsumexp -inf. Values. The greatest
// element is subtracted first, so that nothing overflows. Elements of -inf have probability 0. A
// slice of nothing but -inf gives zeros (log_softmax and logsumexp: -inf), and logsumexp a gradient
// of zeros. A NaN or +inf makes every result of its slice NaN, since the sum is, and none of
// another slice. Accuracy in f32, against the exact value: softmax 2e-7 relative for results above
// 1e-30, log_softmax 2e-7 * max(1, |y|); with the baseline's instructions as the tests find it,
// where the worst of all errors at once would make 2.5e-7 of softmax. The exponential itself, over
// every float from -87.33 to -2^-26: 0.70 ulp with AVX-512, 0.62 with AVX2, 0.99 with the
// baseline's instructions.
//
// Errors: each function checks its arguments before it writes anything and throws
// Error(invalid_argument), which names the tensor.
#pragma once

#include <attn/execution.hpp>
#include <attn/tensor.hpp>

#include <cstdint>

namespace attn {

/// temperature is finite and > 0: less than 1 sharpens toward the maximum, more smooths toward the
/// uniform distribution.
void softmax(const TensorView& x, const MutableTensorView& y, int dim = -1, float temperature = 1,
             const Execution& execution = {});
void log_softmax(const TensorView& x, const MutableTensorView& y, int dim = -1,
                 float temperature = 1, const Execution& execution = {});
/// out: the shape of x without dim.
void logsumexp(const TensorView& x, const MutableTensorView& out, int dim = -1,
               float temperature = 1, const Execution& execution = {});

/// dx = y (dy - sum_j dy_j y_j) / T, with y = softmax(x). dx may be dy or y.
void softmax_backward(const TensorView& dy, const TensorView& y, const MutableTensorView& dx,
                      int dim = -1, float temperature = 1, const Execution& execution = {});
/// dx = (dy - exp(y) sum_j dy_j) / T, with y = log_softmax(x). dx may be dy or y.
void log_softmax_backward(const TensorView& dy, const TensorView& y, const MutableTensorView& dx,
                          int dim = -1, float temperature = 1, const Execution& execution = {});
/// dx = dout exp(x / T - out) / T, with out = logsumexp(x). dx may be x.
void logsumexp_backward(const TensorView& dout, const TensorView& x, const TensorView& out,
                        const MutableTensorView& dx, int dim = -1, float temperature = 1,
                        const Execution& execution = {});

/// What can be had beside y, each left out by default, in the shape of x without dim.
struct Threshold {
  MutableTensorView tau{};  // f32: as in the formulas above, of x itself and not of x - max; for
                            // alpha = 1, logsumexp(x)
  MutableTensorView support{};  // i64: the number of y_i > 0 before rounding to the type of y
};

/// Exact, by selection. A slice with a NaN, a +inf, or nothing but -inf is as in softmax; its tau
/// is NaN or -inf, its support 0.
void sparsemax(const TensorView& x, const MutableTensorView& y, int dim = -1,
               const Threshold& threshold = {}, const Execution& execution = {});
/// alpha = 1.5, exact, by selection.
void entmax15(const TensorView& x, const MutableTensorView& y, int dim = -1,
              const Threshold& threshold = {}, const Execution& execution = {});
/// alpha >= 1, finite; alpha = 1, 1.5 and 2 are the functions above. Others are found in double by
/// Newton's method within a bracket, to the rounding of f32: up to alpha = 2 y is divided by its
/// sum, above the last elements of the support get what the others leave.
void entmax(const TensorView& x, const MutableTensorView& y, float alpha, int dim = -1,
            const Threshold& threshold = {}, const Execution& execution = {});

/// dx_i = s_i (dy_i - sum_j s_j dy_j / sum_j s_j), s_i = y_i^(2 - alpha) on the support, else 0; y
/// = entmax(x, alpha), and sparsemax is alpha = 2. dx may be dy or y. dy is not looked at outside
/// the support.
void sparsemax_backward(const TensorView& dy, const TensorView& y, const MutableTensorView& dx,
                        int dim = -1, const Execution& execution = {});
void entmax_backward(const TensorView& dy, const TensorView& y, const MutableTensorView& dx,
                     float alpha, int dim = -1, const Execution& execution = {});
/// The derivative in alpha of each slice: dalpha has the shape of y without dim (Correia, Niculae
/// and Martins 2019, arXiv:1909.00015, proposition 1, with its limit at alpha = 1).
void entmax_backward_alpha(const TensorView& dy, const TensorView& y,
                           const MutableTensorView& dalpha, float alpha, int dim = -1,
                           const Execution& execution = {});

}  // namespace attn
