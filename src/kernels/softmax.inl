// One row after another: its scores lie in L1, so the two passes (maximum, exponential) cost no traffic further out.

inline constexpr float minus_infinity = -__builtin_inff();
inline constexpr int unroll = 4;  // independent accumulators, to cover the latency of max and add

ATTN_INLINE void fill(float* row, std::int64_t begin, std::int64_t end, float value) {
  for (std::int64_t j = begin; j < end; ++j) row[j] = value;
}

/// begin and end are multiples of W, here and below.
ATTN_INLINE float row_maximum(const float* row, std::int64_t begin, std::int64_t end) {
  Vector greatest[unroll];
  for (Vector& g : greatest) g = broadcast(minus_infinity);
  std::int64_t j = begin;
  for (; j + unroll * vector_width <= end; j += unroll * vector_width) {
    for (int u = 0; u < unroll; ++u) greatest[u] = max(load(row + j + u * vector_width), greatest[u]);
  }
  for (; j < end; j += vector_width) greatest[0] = max(load(row + j), greatest[0]);
  return max_of_lanes(max(max(greatest[0], greatest[1]), max(greatest[2], greatest[3])));
}

/// How weights are written over the scores of a row: as they are.
struct F32Weights {
  static ATTN_INLINE void put(float* row, std::int64_t j, Vector p) { store(row + j, p); }
  static ATTN_INLINE void clear(float* row, std::int64_t begin, std::int64_t end) { fill(row, begin, end, 0.f); }
};

/// row = exp2((row - shift) * scale); returns the sum. Subtracting first makes the greatest score exactly 2^0, however large.
template <class Weights>
ATTN_INLINE float exponentiate(float* row, std::int64_t begin, std::int64_t end, float scale, float shift) {
  Vector sum[unroll] = {};
  std::int64_t j = begin;
  for (; j + unroll * vector_width <= end; j += unroll * vector_width) {
    Vector p[unroll];
    ATTN_UNROLL for (int u = 0; u < unroll; ++u) {
      p[u] = exp2_nonpositive((load(row + j + u * vector_width) - shift) * scale);
      sum[u] += p[u];
    }
    ATTN_UNROLL for (int u = 0; u < unroll; ++u) Weights::put(row, j + u * vector_width, p[u]);
  }
  for (; j < end; j += vector_width) {
    const Vector p = exp2_nonpositive((load(row + j) - shift) * scale);
    Weights::put(row, j, p);
    sum[0] += p;
  }
  return sum_of_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/// What a tile's rows hand from one phase to the next.
struct RowUpdate {
  std::int64_t begin, end;  // the row's range in whole vectors; empty if it sees nothing
  float maximum;            // the row's new one
};

/// Grows the row's maximum; what its whole vectors hold beyond its range becomes -inf.
ATTN_INLINE RowUpdate update_maximum(const SoftmaxTile& tile, std::int64_t r, float* row) {
  const std::int64_t begin = tile.begin[r], end = tile.end[r];
  if (begin >= end) return {tile.first, tile.first, 0.f};
  const RowUpdate whole{round_down(begin), round_up(end), 0.f};
  fill(row, whole.begin, begin, minus_infinity);
  fill(row, end, whole.end, minus_infinity);
  const float here = row_maximum(row, whole.begin, whole.end);
  const float greatest = here > tile.row_max[r] ? here : tile.row_max[r];
  return {whole.begin, whole.end, greatest};
}

ATTN_INLINE void rescale(const SoftmaxTile& tile, std::int64_t r, float new_max) {
  const float old_max = tile.row_max[r];
  if (new_max == old_max) return;
  tile.row_max[r] = new_max;
  if (old_max == minus_infinity) return;  // nothing has been summed yet
  const float factor = exp2_nonpositive(broadcast((old_max - new_max) * tile.scale))[0];
  tile.row_sum[r] *= factor;
  float* out = tile.out + r * tile.out_stride;
  for (std::int64_t n = 0; n < tile.out_columns; n += vector_width) store(out + n, load(out + n) * factor);
}

template <class Weights>
void online_softmax(const SoftmaxTile& tile) {
  RowUpdate updates[tile_rows];
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    updates[r] = update_maximum(tile, r, tile.scores + r * tile.stride);
  }
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    float* row = tile.scores + r * tile.stride;
    const RowUpdate update = updates[r];
    Weights::clear(row, tile.first, update.begin);
    if (update.begin < update.end) {
      rescale(tile, r, update.maximum);
      const float shift = update.maximum == minus_infinity ? 0.f : update.maximum;  // -inf - -inf would be NaN
      tile.row_sum[r] += exponentiate<Weights>(row, update.begin, update.end, tile.scale, shift);
    }
    Weights::clear(row, update.end, tile.last);
  }
}
