// Online softmax: from a tile of scores to its part of O. The scores lie in L1, so passing over
// them twice (maximum, then exponential) costs no traffic further out.
//
// The exponentials ride along with the multiply-adds of P V: between the steps of depth that take
// one chunk of weights, the next chunk is made, a row at a time. Multiply-adds keep two ports of
// the processor busy and leave the others idle, and an exponential needs mostly the others.

inline constexpr float minus_infinity = -__builtin_inff();
inline constexpr int unroll = 4;  // independent accumulators, to cover the latency of max

/// Words of depth whose weights are made in one go, for each row; a row's turn comes every
/// `steps_between` steps of depth.
inline constexpr int chunk_width = vector_width > 8 ? vector_width : 8;
inline constexpr int steps_between = chunk_width / 8;
static_assert(tile_rows * steps_between <= chunk_width);

/// begin and end are multiples of W.
ATTN_INLINE void fill(float* row, std::int64_t begin, std::int64_t end, float value) {
  for (std::int64_t j = begin; j < end; j += vector_width) store(row + j, broadcast(value));
}

/// -inf outside begin <= j < end, for the vector of columns from j on.
ATTN_INLINE void hide_lanes(float* row, std::int64_t j, std::int64_t begin, std::int64_t end) {
  const Lanes column = lane_numbers + static_cast<std::int32_t>(j);
  const Lanes seen =
      (column >= static_cast<std::int32_t>(begin)) & (column < static_cast<std::int32_t>(end));
  store(row + j, select(seen, load(row + j), broadcast(minus_infinity)));
}

/// -inf outside begin <= j < end, for first <= j < last, multiples of W. In whole vectors, as they
/// are read next: a load does not take its value from several smaller stores that are still under
/// way.
ATTN_INLINE void hide_outside(float* row, std::int64_t first, std::int64_t last, std::int64_t begin,
                              std::int64_t end) {
  const std::int64_t inner_begin = round_up(begin), inner_end = round_down(end);
  fill(row, first, round_down(begin), minus_infinity);
  if (begin < inner_begin) hide_lanes(row, round_down(begin), begin, end);
  if (inner_end < end) hide_lanes(row, inner_end, begin, end);
  fill(row, round_up(end), last, minus_infinity);
}

/// begin and end are multiples of W.
ATTN_INLINE float row_maximum(const float* row, std::int64_t begin, std::int64_t end) {
  Vector greatest[unroll];
  for (Vector& g : greatest) g = broadcast(minus_infinity);
  std::int64_t j = begin;
  for (; j + unroll * vector_width <= end; j += unroll * vector_width) {
    for (int u = 0; u < unroll; ++u)
      greatest[u] = max(load(row + j + u * vector_width), greatest[u]);
  }
  for (; j < end; j += vector_width) greatest[0] = max(load(row + j), greatest[0]);
  return max_of_lanes(max(max(greatest[0], greatest[1]), max(greatest[2], greatest[3])));
}

/// The row's maximum within its range. What lies outside becomes -inf.
ATTN_INLINE float maximum_in_range(const SoftmaxTile& tile, std::int64_t r) {
  if (tile.maxima != nullptr) return max_of_lanes(load(tile.maxima + r * vector_width));
  float* const row = tile.scores + r * tile.stride;
  const std::int64_t begin = tile.begin[r], end = tile.end[r];
  if (begin >= end) {
    fill(row, tile.first, tile.last, minus_infinity);
    return minus_infinity;
  }
  hide_outside(row, tile.first, tile.last, begin, end);
  return row_maximum(row, round_down(begin), round_up(end));
}

ATTN_INLINE void rescale(const SoftmaxTile& tile, std::int64_t r, float new_max) {
  const float old_max = tile.row_max[r];
  if (new_max == old_max) return;
  tile.row_max[r] = new_max;
  if (old_max == minus_infinity) return;  // nothing has been summed yet
  const float factor = exp2_nonpositive(broadcast((old_max - new_max) * tile.scale))[0];
  tile.row_sum[r] *= factor;
  float* out = tile.out + r * tile.out_stride;
  for (std::int64_t n = 0; n < tile.columns; n += vector_width)
    store(out + n, load(out + n) * factor);
}

/// How a chunk of scores becomes weights, in place: as they are.
struct F32Weights {
  using Operand = F32;
  static constexpr int vnni_factor = 1;
  /// Applies `weigh` to each vector of scores; returns the sum of the weights.
  template <class Weigh>
  static ATTN_INLINE Vector make(float* row, std::int64_t j, Weigh weigh) {
    Vector p[chunk_width / vector_width];
    ATTN_UNROLL for (int v = 0; v < chunk_width / vector_width; ++v) {
      p[v] = weigh(load(row + j + v * vector_width));
      store(row + j + v * vector_width, p[v]);
    }
    ATTN_UNROLL for (int v = 1; v < chunk_width / vector_width; ++v) p[0] += p[v];
    return p[0];
  }
};

/// Makes all weights, exp2((s - shift) * scale), and adds P V for the first panel of V. Subtracting
/// first makes the greatest score's weight exactly 2^0, however large it is. `words` are those that
/// V has a row for.
template <class Weights, int Rows, int Vectors>
void weigh_and_multiply(const SoftmaxTile& tile, std::int64_t words) {
  constexpr std::int64_t chunk_keys = chunk_width * Weights::vnni_factor;
  float* const scores = tile.scores;
  const std::int64_t stride = tile.stride, last = tile.last;
  const float scale = tile.scale;
  float shifts[Rows];
  Vector row_sums[Rows];
  for (int r = 0; r < Rows; ++r) {
    shifts[r] =
        tile.row_max[r] == minus_infinity ? 0.f : tile.row_max[r];  // -inf - -inf would be NaN
    row_sums[r] = Vector{};
  }
  const auto make_weights = [&](int r, std::int64_t j) ATTN_INLINE_LAMBDA {
    const float shift = shifts[r];
    const auto weigh = [=](Vector s)
                           ATTN_INLINE_LAMBDA { return exp2_nonpositive((s - shift) * scale); };
    row_sums[r] += Weights::make(scores + r * stride, j, weigh);
  };

  std::int64_t next = tile.first;
  for (int r = 0; r < Rows; ++r) make_weights(r, next);
  Accumulators<typename Weights::Operand, Rows, Vectors> sums(
      {scores + tile.first / Weights::vnni_factor, stride, tile.values.data,
       tile.values.layout.row_stride});
  sums.load_from(tile.out, tile.out_stride);
  for (next += chunk_keys; next < last; next += chunk_keys, words -= chunk_width) {
    ATTN_NO_UNROLL for (int r = 0; r < Rows; ++r) {
      make_weights(r, next);
      ATTN_UNROLL for (int step = 0; step < steps_between; ++step) sums.step();
    }
    ATTN_NO_UNROLL for (int step = Rows * steps_between; step < chunk_width; ++step) sums.step();
  }
  ATTN_NO_UNROLL for (; words > 0; --words) sums.step();
  sums.store_to(tile.out, tile.out_stride);
  for (int r = 0; r < Rows; ++r) tile.row_sum[r] += sum_of_lanes(row_sums[r]);
}

template <class Weights, std::size_t... Index>
ATTN_INLINE auto weigh_and_multiply_function(std::int64_t rows, std::int64_t vectors,
                                             std::index_sequence<Index...>) {
  using Function = void (*)(const SoftmaxTile&, std::int64_t);
  static constexpr Function functions[] = {
      weigh_and_multiply<Weights, static_cast<int>(Index) / panel_vectors + 1,
                         static_cast<int>(Index) % panel_vectors + 1>...};
  return functions[(rows - 1) * panel_vectors + vectors - 1];
}

template <class Weights>
void online_softmax(const SoftmaxTile& tile) {
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const float here = maximum_in_range(tile, r);
    rescale(tile, r, here > tile.row_max[r] ? here : tile.row_max[r]);
  }
  const std::int64_t words = (tile.value_end + Weights::vnni_factor - 1) / Weights::vnni_factor -
                             tile.first / Weights::vnni_factor;
  const std::int64_t first_columns =
      tile.columns < tile.values.layout.panel_width ? tile.columns : tile.values.layout.panel_width;
  weigh_and_multiply_function<Weights>(tile.rows, first_columns / vector_width, tile_indices)(
      tile, words);
  if (first_columns == tile.columns) return;
  matmul<typename Weights::Operand>({
      .a = tile.scores + tile.first / Weights::vnni_factor,
      .a_stride = tile.stride,
      .b = {tile.values.data + tile.values.layout.panel_stride, tile.values.layout},
      .c = tile.out + first_columns,
      .c_stride = tile.out_stride,
      .rows = tile.rows,
      .columns = tile.columns - first_columns,
      .depth = words,
      .accumulate = true,
  });
}

/// The weights alone, for values that are added by others.
void weigh(const SoftmaxTile& tile) {
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const float here = maximum_in_range(tile, r);
    rescale(tile, r, here > tile.row_max[r] ? here : tile.row_max[r]);
    const float shift =
        tile.row_max[r] == minus_infinity ? 0.f : tile.row_max[r];  // -inf - -inf would be NaN
    float* const row = tile.scores + r * tile.stride;
    Vector sum{};
    for (std::int64_t j = tile.first; j < tile.last; j += vector_width) {
      const Vector weights = exp2_nonpositive((load(row + j) - shift) * tile.scale);
      store(row + j, weights);
      sum += weights;
    }
    tile.row_sum[r] += sum_of_lanes(sum);
  }
}
