// Attributes and pragmas of the kernels.
#pragma once

#define ATTN_INLINE __attribute__((always_inline)) inline
#define ATTN_INLINE_LAMBDA __attribute__((always_inline))
/// Unrolls a short loop before the compiler decides what stays in registers.
#define ATTN_UNROLL _Pragma("GCC unroll 16")
/// Keeps a loop a loop where copies of its body would need too many registers.
#define ATTN_NO_UNROLL _Pragma("GCC unroll 1")
