// Kernels for AVX-512 F, BW, CD, DQ and VL (x86-64-v4).
#define ATTN_KERNELS avx512_kernels
#include "kernels/kernels.inl"
