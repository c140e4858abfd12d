// Included once by each instruction set's file, which defines ATTN_KERNELS as the name of the table
// to export.
//
// Everything but the table has internal linkage, and no inline function of the standard library is
// called: code that was compiled for a new processor must never be the copy of a shared function
// that the linker keeps for all.

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/kernels.hpp"

namespace attn::kernels {
namespace {

// Each file uses those before it.
// clang-format off
#include "kernels/simd.inl"
#include "kernels/exp.inl"
#include "kernels/matmul.inl"
#include "kernels/softmax.inl"
#include "kernels/pack.inl"
#include "kernels/transforms.inl"
#include "kernels/entmax.inl"
#include "kernels/stored.inl"
#include "kernels/rows.inl"
#include "kernels/functional.inl"
// clang-format on
#if defined(__AVX512BF16__)
#include "kernels/bf16.inl"
#else
inline constexpr Arithmetic bf16_arithmetic{};
inline constexpr StoredArithmetic stored_bf16 = stored_arithmetic<StoredBf16>;
inline constexpr StoredArithmetic stored_i8 = stored_arithmetic<StoredI8>;
#endif

}  // namespace

extern const Kernels ATTN_KERNELS;
constinit const Kernels ATTN_KERNELS = {
    .vector_width = vector_width,
    .panel_width = panel_width,
    .f32 = {.vnni_factor = 1,
            .chunk_keys = chunk_width,
            .matmul = matmul<F32>,
            .online_softmax = online_softmax<F32Weights>,
            .pack_finite = pack_finite_f32},
    .bf16 = bf16_arithmetic,
    .stored_f32 = stored_arithmetic<StoredF32>,
    .stored_bf16 = stored_bf16,
    .stored_f16 = stored_arithmetic<StoredF16>,
    .stored_i8 = stored_i8,
    .weigh = weigh,
    .pack_transposed = pack_transposed,
    .all_finite = all_finite,
    .rows = row_kernels,
    .scale = scale,
    .softcap = softcap,
    .sigmoid = sigmoid,
    .alibi = alibi,
    .add_mask = add_mask,
    .hide = hide,
    .compress_above = compress_above,
    .excess_sums = excess_sums,
    .excesses = excesses,
    .half_excesses_squared = half_excesses_squared,
    .widen_bf16 = widen_bf16,
    .widen_f16 = widen_f16,
    .widen_i8 = widen_i8,
    .narrow_bf16 = narrow_bf16,
    .narrow_f16 = narrow_f16,
    .row_squares = row_squares,
    .normalize = normalize,
    .rope_half = rope_half,
    .rope_interleaved = rope_interleaved,
    .silu = silu,
    .swiglu = swiglu,
    .gelu_erf = gelu_erf,
    .gelu_tanh = gelu_tanh,
};

}  // namespace attn::kernels
