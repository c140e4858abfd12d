// The other functions of tensors that a transformer layer needs: norms, rotary positions,
// activations.
//
// x and y are f32, bf16 or f16, each its own; computed in f32 and rounded once. Any strides. y may
// be the very memory of x (same pointer, strides and type), and overlaps no input otherwise.
// Errors: each function checks its arguments before it writes anything and throws
// Error(invalid_argument), which names the tensor.
#pragma once

#include <attn/execution.hpp>
#include <attn/rope.hpp>
#include <attn/tensor.hpp>

#include <cstdint>

namespace attn {

/// What a norm works on: the dims from `dim` to the last, taken as one row (ONNX's axis).
///
/// Sums and what is normalized are made in double and rounded to f32, whatever the length of a row
/// and however large its mean. A row with a NaN or an infinity has what IEEE 754 makes of the
/// formulas; no other row has. A row without elements has NaN for statistics.
struct NormOptions {
  int dim = -1;           // negative: counted from the last
  float epsilon = 1e-5f;  // finite, 0 or more; with 0, a row without deviation gives NaN
};

/// y = x / sqrt(mean(x^2) + epsilon) * scale (Zhang and Sennrich 2019, arXiv:1910.07467). scale:
/// f32, bf16 or f16 of the shape of the dims from `dim` on, or of one that broadcasts to it: fewer
/// dims, or dims of 1. An absent scale is 1.
void rms_norm(const TensorView& x, const TensorView& scale, const MutableTensorView& y,
              const NormOptions& options = {}, const Execution& execution = {});

/// Left out by default; f32, bf16 or f16 of the shape of x with 1 for the dims from `dim` on.
struct LayerNormStatistics {
  MutableTensorView mean{};
  MutableTensorView inverse_deviation{};  // 1 / sqrt(variance + epsilon)
};

/// y = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * scale + bias (Ba, Kiros and Hinton
/// 2016, arXiv:1607.06450); scale and bias as in rms_norm, an absent bias is 0.
void layer_norm(const TensorView& x, const TensorView& scale, const TensorView& bias,
                const MutableTensorView& y, const NormOptions& options = {},
                const LayerNormStatistics& statistics = {}, const Execution& execution = {});

enum class GeluForm {
  erf,   // x / 2 * (1 + erf(x / sqrt(2)))
  tanh,  // x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
};
/// Hendrycks and Gimpel 2016, arXiv:1606.08415. Activations take any rank, 0 included. In f32
/// they lie within 1e-6 (erf) and 5e-7 (tanh and silu) of the exact value, relative, for negative x
/// too; only results below 2e-36 in magnitude may be 0. At -inf they have their limit, -0.
void gelu(const TensorView& x, const MutableTensorView& y, GeluForm form = GeluForm::erf,
          const Execution& execution = {});
/// x / (1 + exp(-x)).
void silu(const TensorView& x, const MutableTensorView& y, const Execution& execution = {});
/// y = silu(gate) * up (Shazeer 2020, arXiv:2002.05202), all of one shape. y may be the memory of
/// either.
void swiglu(const TensorView& gate, const TensorView& up, const MutableTensorView& y,
            const Execution& execution = {});

}  // namespace attn
