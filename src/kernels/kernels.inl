// The translation unit of an instruction set: CMake makes one from each line of isas.inc, which
// defines ATTN_KERNELS as the name of the table to export and includes this file.
//
// Everything but the table has internal linkage, and no inline function of the standard library is
// called. Otherwise the linker could keep one copy of a shared function for the whole library that
// was compiled for a newer processor than the one that runs it.
#pragma once

#include "kernels/kernels.hpp"

// The files may be included in any order; GCC 12 assigns registers differently in another one.
#include "kernels/matmul.inl"
#include "kernels/online_softmax.inl"
#include "kernels/pack.inl"
#include "kernels/transforms.inl"

#include "kernels/convert.inl"
#include "kernels/entmax.inl"
#include "kernels/stored_rows.inl"

#include "kernels/rows.inl"

#include "kernels/functional.inl"

#include "kernels/gradient.inl"

#include "kernels/bf16.inl"

namespace attn::kernels {

extern const Kernels ATTN_KERNELS;
constinit const Kernels ATTN_KERNELS = {
    VectorShape{.vector_width = vector_width, .panel_width = panel_width},
    PackedKernels{.f32 = {.vnni_factor = 1,
                          .chunk_keys = chunk_depth,
                          .matmul = matmul<F32>,
                          .matmul_transposed = matmul<F32, Order::transposed>,
                          .online_softmax = online_softmax<F32Probabilities>,
                          .softmax_to_pairs = nullptr,
                          .pack_finite = pack_finite_f32,
                          .pair_rows = nullptr},
                  .bf16 = bf16_arithmetic,
                  .i8 = i8_arithmetic},
    StoredKernels{.stored_f32 = stored_arithmetic<StoredF32>,
                  .stored_bf16 = stored_bf16,
                  .stored_f16 = stored_arithmetic<StoredF16>,
                  .stored_i8 = stored_i8,
                  .softmax_rows = softmax_rows},
    pack_kernels,
    RowFamily{.rows = row_kernels},
    score_transforms,
    gradient_kernels,
    entmax_kernels,
    convert_kernels,
    functional_kernels,
};

}  // namespace attn::kernels
