// Kernels for AVX2, FMA and F16C (x86-64-v3).
#define ATTN_KERNELS avx2_kernels
#include "kernels/kernels.inl"
