// Functions of tensors that a transformer layer needs beside attention: norms, activations, and
// rotary position embedding (rope.hpp).
//
// Each tensor is f32, bf16 or f16; results are computed in f32 and rounded once. Strides are any. y
// may be the memory of x (with the same pointer, strides and type); otherwise it overlaps no input.
// Each function checks its arguments before it writes anything, and throws Error(invalid_argument)
// with a message that names the tensor.
#pragma once

#include <attn/execution.hpp>
#include <attn/export.hpp>
#include <attn/rope.hpp>
#include <attn/tensor.hpp>

#include <cstdint>

namespace attn {

/// A norm treats the dims from `dim` to the last as one row, as ONNX does with its axis.
///
/// Sums and normalized values are computed in double and rounded to f32, so accuracy does not
/// depend on the length of a row or the size of its mean. A row with a NaN or an infinity gives
/// what IEEE 754 makes of the formulas, and affects no other row. The statistics of a row without
/// elements are NaN.
struct NormOptions {
  int dim = -1;           // counted from the last if negative
  float epsilon = 1e-5f;  // finite, 0 or more; with 0, a constant row gives NaN
};

/// y = x / sqrt(mean(x^2) + epsilon) * scale (Zhang and Sennrich 2019, arXiv:1910.07467). scale is
/// f32, bf16 or f16, in the shape of the dims from `dim` on or in one that broadcasts to it: with
/// fewer dims, or dims of 1. An absent scale is 1.
ATTN_API void rms_norm(const TensorView& x, const TensorView& scale, const MutableTensorView& y,
                       const NormOptions& options = {}, const Execution& execution = {});

/// Optional outputs of layer_norm, f32, bf16 or f16, in the shape of x with 1 for the dims from
/// `dim` on.
struct LayerNormStatistics {
  MutableTensorView mean{};
  MutableTensorView inverse_deviation{};  // 1 / sqrt(variance + epsilon)
};

/// y = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * scale + bias (Ba, Kiros and Hinton
/// 2016, arXiv:1607.06450); scale and bias as in rms_norm, an absent bias is 0.
ATTN_API void layer_norm(const TensorView& x, const TensorView& scale, const TensorView& bias,
                         const MutableTensorView& y, const NormOptions& options = {},
                         const LayerNormStatistics& statistics = {},
                         const Execution& execution = {});

enum class GeluForm {
  erf,   // x / 2 * (1 + erf(x / sqrt(2)))
  tanh,  // x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
};
/// Hendrycks and Gimpel 2016, arXiv:1606.08415. These functions accept any rank, 0 included. In f32
/// the relative error is at most 1e-6 (erf) and 5e-7 (tanh, silu), for negative x too; only results
/// below 2e-36 in magnitude may be 0. At -inf the result is the limit, -0.
ATTN_API void gelu(const TensorView& x, const MutableTensorView& y, GeluForm form = GeluForm::erf,
                   const Execution& execution = {});
/// y = x / (1 + exp(-x)).
ATTN_API void silu(const TensorView& x, const MutableTensorView& y,
                   const Execution& execution = {});
/// y = silu(gate) * up (Shazeer 2020, arXiv:2002.05202); all three have the same shape. y may be
/// the memory of gate or of up.
ATTN_API void swiglu(const TensorView& gate, const TensorView& up, const MutableTensorView& y,
                     const Execution& execution = {});
/// y = gelu(gate) * up (Shazeer 2020); arguments as in swiglu.
ATTN_API void geglu(const TensorView& gate, const TensorView& up, const MutableTensorView& y,
                    GeluForm form = GeluForm::erf, const Execution& execution = {});

}  // namespace attn
