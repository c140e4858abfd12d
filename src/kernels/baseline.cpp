// Kernels for what every processor of the architecture has.
#define ATTN_KERNELS baseline_kernels
#include "kernels/kernels.inl"
