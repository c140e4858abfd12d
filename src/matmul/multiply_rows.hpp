// Products of any number of rows with one packed panel, by the micro-kernel.
#pragma once

#include <cstdint>

#include "kernels/kernels.hpp"

namespace attn::detail {

/// The rows that a thread multiplies by a panel at a time. Each of them reads the panel, or a block
/// of its depth, from the processor's caches; the products fit on a thread's stack.
inline constexpr std::int64_t rows_of_piece = 96;
/// No instruction set has wider panels.
inline constexpr std::int64_t widest_panel = 64;

/// What the micro-kernel computes, for any number of rows instead of at most kernels::tile_rows.
/// `maxima` and `prefetch` are not supported. The bits of a row do not depend on the other rows.
void multiply_rows(const kernels::Arithmetic& arithmetic, const kernels::MatmulTile& product);

}  // namespace attn::detail
