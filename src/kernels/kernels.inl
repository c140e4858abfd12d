// Included once by each instruction set's file, which defines ATTN_KERNELS as the name of the table to export.
//
// Everything but the table has internal linkage, and no inline function of the standard library is called: code that was
// compiled for a new processor must never be the copy of a shared function that the linker keeps for all.

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/kernels.hpp"

namespace attn::kernels {
namespace {

#include "kernels/simd.inl"
#include "kernels/exp.inl"
#include "kernels/matmul.inl"
#include "kernels/softmax.inl"
#include "kernels/pack.inl"
#include "kernels/transforms.inl"

}  // namespace

extern const Kernels ATTN_KERNELS;
constinit const Kernels ATTN_KERNELS = {
    vector_width, panel_width, matmul, online_softmax, pack_transposed, pack_finite, scale,       softcap,   alibi,
    add_mask,     hide,        divide, widen_bf16,     widen_f16,       narrow_bf16, narrow_f16,
};

}  // namespace attn::kernels
