#include "matmul/multiply_rows.hpp"

#include <algorithm>

namespace attn::detail {

void multiply_rows(const kernels::Arithmetic& arithmetic, const kernels::MatmulTile& product) {
  // A block of a panel, 256 KB at most, stays in the second-level cache while all rows meet it.
  // Each element is still summed in the order of the depth.
  constexpr std::int64_t block_depth = 1024;
  std::int64_t k = 0;
  do {
    kernels::MatmulTile tile = product;
    tile.a += k;
    tile.b.data += k * product.b.layout.row_stride;
    tile.depth = std::min(block_depth, product.depth - k);
    tile.accumulate = product.accumulate || k > 0;
    for (std::int64_t first = 0; first < product.rows; first += kernels::tile_rows) {
      tile.rows = std::min(kernels::tile_rows, product.rows - first);
      arithmetic.matmul(tile);
      tile.a += kernels::tile_rows * product.a_stride;
      tile.c += kernels::tile_rows * product.c_stride;
    }
    k += block_depth;
  } while (k < product.depth);
}

}  // namespace attn::detail
