// The micro-kernel: a register tile of up to 6 rows x panel_width columns stays in registers over the whole depth.
//
// Per step of depth it loads panel_vectors vectors of B and broadcasts 6 floats of A for 6 * panel_vectors multiply-adds:
// 10 loads for 24 multiply-adds on AVX-512, so neither the load ports nor a B that streams from L2 (256 bytes in 24 cycles)
// bound it. Every element of C is summed in the order of k whatever the tile's size: rows do not depend on their neighbours.

struct F32 {
  static ATTN_INLINE Vector multiply_add(Vector a, Vector b, Vector sum) { return a * b + sum; }
};

template <class Operand, int Rows, int Vectors, bool Accumulate>
void matmul_tile(const MatmulTile& tile, const float* b, float* c) {
  Vector sum[Rows][Vectors];
  ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
    ATTN_UNROLL for (int v = 0; v < Vectors; ++v) sum[r][v] = Accumulate ? load(c + r * tile.c_stride + v * vector_width) : Vector{};
  }
  const Word* a = tile.a;
  for (std::int64_t k = 0; k < tile.depth; ++k) {
    Vector row[Vectors];
    ATTN_UNROLL for (int v = 0; v < Vectors; ++v) row[v] = load(b + v * vector_width);
    ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
      const Vector x = broadcast(a[r * tile.a_stride]);
      ATTN_UNROLL for (int v = 0; v < Vectors; ++v) sum[r][v] = Operand::multiply_add(x, row[v], sum[r][v]);
    }
    ++a;
    b += tile.b_row_stride;
  }
  ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
    ATTN_UNROLL for (int v = 0; v < Vectors; ++v) store(c + r * tile.c_stride + v * vector_width, sum[r][v]);
  }
}

using TileFunction = void (*)(const MatmulTile&, const float*, float*);

template <class Operand, bool Accumulate, std::size_t... Index>
constexpr TileFunction tile_function(std::int64_t rows, std::int64_t vectors, std::index_sequence<Index...>) {
  constexpr TileFunction functions[] = {
      matmul_tile<Operand, static_cast<int>(Index) / panel_vectors + 1, static_cast<int>(Index) % panel_vectors + 1, Accumulate>...};
  return functions[(rows - 1) * panel_vectors + vectors - 1];
}

template <class Operand>
TileFunction tile_function(const MatmulTile& tile, std::int64_t vectors) {
  constexpr auto indices = std::make_index_sequence<static_cast<std::size_t>(tile_rows * panel_vectors)>{};
  return tile.accumulate ? tile_function<Operand, true>(tile.rows, vectors, indices)
                         : tile_function<Operand, false>(tile.rows, vectors, indices);
}

template <class Operand>
void matmul(const MatmulTile& tile) {
  const std::int64_t whole_panels = tile.columns / panel_width;
  const float* b = tile.b;
  float* c = tile.c;
  const TileFunction whole = tile_function<Operand>(tile, panel_vectors);
  for (std::int64_t panel = 0; panel < whole_panels; ++panel, b += tile.b_panel_stride, c += panel_width) whole(tile, b, c);
  const std::int64_t rest = round_up(tile.columns - whole_panels * panel_width) / vector_width;
  if (rest > 0) tile_function<Operand>(tile, rest)(tile, b, c);
}
