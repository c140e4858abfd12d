// Kernels for AVX-512 with BF16.
#define ATTN_KERNELS avx512_bf16_kernels
#include "kernels/kernels.inl"
