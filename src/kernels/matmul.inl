// The matrix multiplication micro-kernel: a register tile of up to 6 rows x panel_width columns
// stays in registers over the whole depth.
//
// Per step of depth it loads panel_vectors vectors of B and broadcasts 6 elements of A for 6 *
// panel_vectors multiply-adds: 10 loads for 24 multiply-adds on AVX-512, so neither the load ports
// nor a B that streams from L2 (256 bytes in 24 cycles) are the bottleneck. Every element of C is
// summed in the order of k whatever the size of the tile, so the result of a row does not depend on
// the other rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/contract/matmul.hpp"
#include "kernels/lanes.inl"

namespace attn::kernels {
namespace {

/// Packed elements that are f32.
struct F32 {
  static ATTN_INLINE Vector multiply_add(Vector a, Vector b, Vector sum) {
    return kernels::multiply_add(a, b, sum);
  }
};

/// Where the operands of a register tile's next step of depth are.
struct TileOperands {
  const PackedElement* a;
  std::int64_t a_stride;
  const float* b;
  std::int64_t b_row_stride;
};

/// How the elements of A lie: rows [rows, depth], or the rows of its transpose [depth, rows].
enum class Order { rows, transposed };

/// A register tile of C.
template <class Operand, int Rows, int Vectors, Order A = Order::rows>
struct Accumulators {
  explicit ATTN_INLINE Accumulators(const TileOperands& from) : at(from) {}

  ATTN_INLINE void clear() {
    ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
      ATTN_UNROLL for (int v = 0; v < Vectors; ++v) sum[r][v] = Vector{};
    }
  }
  ATTN_INLINE void load_from(const float* c, std::int64_t stride) {
    ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
      ATTN_UNROLL for (int v = 0; v < Vectors; ++v) sum[r][v] =
          load(c + r * stride + v * vector_width);
    }
  }
  ATTN_INLINE void store_to(float* c, std::int64_t stride) const {
    ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
      ATTN_UNROLL for (int v = 0; v < Vectors; ++v)
          store(c + r * stride + v * vector_width, sum[r][v]);
    }
  }
  /// Raises each lane of maxima[Rows, W] to the maximum of the sums in that lane.
  ATTN_INLINE void update_maxima(float* maxima) const {
    ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
      Vector maximum = load(maxima + r * vector_width);
      ATTN_UNROLL for (int v = 0; v < Vectors; ++v) maximum = max(sum[r][v], maximum);
      store(maxima + r * vector_width, maximum);
    }
  }
  /// One packed element of depth.
  ATTN_INLINE void step() {
    Vector row[Vectors];
    ATTN_UNROLL for (int v = 0; v < Vectors; ++v) row[v] = load(at.b + v * vector_width);
    ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
      const Vector x = broadcast(A == Order::rows ? at.a[r * at.a_stride] : at.a[r]);
      ATTN_UNROLL for (int v = 0; v < Vectors; ++v) sum[r][v] =
          Operand::multiply_add(x, row[v], sum[r][v]);
    }
    at.a += A == Order::rows ? 1 : at.a_stride;
    at.b += at.b_row_stride;
  }

  TileOperands at;
  Vector sum[Rows][Vectors];
};

/// Prefetches one line. The lines come from memory; spread over the steps of depth, they do not
/// delay those of B, which come from L2.
ATTN_INLINE void prefetch_next(PrefetchWalk& walk) {
  constexpr std::int64_t line = 64;
  __builtin_prefetch(walk.row + walk.offset, 0, 2);
  walk.offset += line;
  if (walk.offset < walk.row_bytes) return;
  walk.offset = 0;
  walk.row += walk.row_stride;
  --walk.rows;
  if (walk.rows == 0 && walk.next != nullptr) walk = *walk.next;
}

/// The members of MatmulTile that may be null.
struct OptionalWork {
  float* maxima;
  PrefetchWalk* prefetch;
};

template <class Operand, int Rows, int Vectors, bool Accumulate, Order A>
void matmul_tile(const TileOperands& operands, std::int64_t depth, float* c, std::int64_t c_stride,
                 const OptionalWork& optional) {
  Accumulators<Operand, Rows, Vectors, A> sums(operands);
  if constexpr (Accumulate) {
    sums.load_from(c, c_stride);
  } else {
    sums.clear();
  }
  std::int64_t k = 0;
  if (optional.prefetch != nullptr) {
    PrefetchWalk walk = *optional.prefetch;
    for (; k < depth && walk.rows > 0; ++k) {
      prefetch_next(walk);
      sums.step();
    }
    *optional.prefetch = walk;
  }
  for (; k < depth; ++k) sums.step();
  sums.store_to(c, c_stride);
  if (optional.maxima != nullptr) sums.update_maxima(optional.maxima);
}

/// One index for each number of rows and of vectors that a register tile may have.
inline constexpr auto tile_indices =
    std::make_index_sequence<static_cast<std::size_t>(tile_rows* panel_vectors)>{};

using TileFunction = void (*)(const TileOperands&, std::int64_t, float*, std::int64_t,
                              const OptionalWork&);

template <class Operand, bool Accumulate, Order A, std::size_t... Index>
ATTN_INLINE TileFunction tile_function(std::int64_t rows, std::int64_t vectors,
                                       std::index_sequence<Index...>) {
  static constexpr TileFunction functions[] = {
      matmul_tile<Operand, static_cast<int>(Index) / panel_vectors + 1,
                  static_cast<int>(Index) % panel_vectors + 1, Accumulate, A>...};
  return functions[(rows - 1) * panel_vectors + vectors - 1];
}

template <class Operand, Order A>
ATTN_INLINE TileFunction tile_function(const MatmulTile& tile, std::int64_t vectors) {
  return tile.accumulate ? tile_function<Operand, true, A>(tile.rows, vectors, tile_indices)
                         : tile_function<Operand, false, A>(tile.rows, vectors, tile_indices);
}

template <class Operand, Order A = Order::rows>
void matmul(const MatmulTile& tile) {
  const PanelLayout& layout = tile.b.layout;
  TileOperands operands{tile.a, tile.a_stride, tile.b.data, layout.row_stride};
  const TileFunction whole = tile_function<Operand, A>(tile, layout.panel_width / vector_width);
  const OptionalWork optional{tile.maxima, tile.prefetch};
  std::int64_t n = 0;
  for (; n + layout.panel_width <= tile.columns;
       n += layout.panel_width, operands.b += layout.panel_stride) {
    whole(operands, tile.depth, tile.c + n, tile.c_stride, optional);
  }
  const std::int64_t rest = round_up(tile.columns - n) / vector_width;
  if (rest > 0)
    tile_function<Operand, A>(tile, rest)(operands, tile.depth, tile.c + n, tile.c_stride,
                                          optional);
}

}  // namespace
}  // namespace attn::kernels
