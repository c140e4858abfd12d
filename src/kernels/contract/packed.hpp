// How packed operands of a matrix multiplication lie in memory.
//
// Depth is counted in packed elements of 32 bits. For f32 a packed element is one float. For bf16
// it is a packed pair: two values that are neighbors in depth, the earlier one in the lower half,
// which others call the VNNI layout. Either way one packed element of A meets one of B in an
// instruction, and the product is added to a float of C. Buffers of packed elements are typed as
// float*.
//
// Strides and counts are in packed elements unless a comment says otherwise. W is
// Kernels::vector_width. Nothing need be aligned to more than 4 bytes.
#pragma once

#include <cstdint>

namespace attn::kernels {

/// The most rows of C that stay in registers.
inline constexpr std::int64_t tile_rows = 6;
/// No instruction set here has vectors of more floats.
inline constexpr std::int64_t max_vector_width = 16;

/// A matrix cut into panels of panel_width columns. Element (k, n) is at
///
///   (n / panel_width) * panel_stride + k * row_stride + n % panel_width
struct PanelLayout {
  std::int64_t row_stride;
  std::int64_t panel_stride;
  std::int64_t panel_width;  // a multiple of W, at most Kernels::panel_width
};
struct Panels {
  const float* data;
  PanelLayout layout;
};

}  // namespace attn::kernels
