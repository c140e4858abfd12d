// The tensors and options of a piece: views of the rank's own, and options in numbers of the piece.
#pragma once

#include <attn/attention.hpp>

#include "mpi/division.hpp"

namespace attn::mpi {

/// Keys and values at hand: a rank's own, or a block that came round.
struct KeyBlock {
  TensorView k{}, v{}, k_scales{}, v_scales{};
};

/// The part [entries, heads, rows, ..] of a tensor of rank 3 or 4.
template <class Void>
BasicTensorView<Void> part_of(const BasicTensorView<Void>& tensor, const TokenRange& batch,
                              const TokenRange& heads, const TokenRange& rows) {
  if (tensor.absent()) return {};
  return tensor.sliced(0, batch.begin, batch.end)
      .sliced(1, heads.begin, heads.end)
      .sliced(2, rows.begin, rows.end);
}

/// The query heads of a piece.
inline TokenRange q_heads_of(const Piece& piece, std::int64_t group_size) noexcept {
  return {piece.kv_heads.begin * group_size, piece.kv_heads.end * group_size};
}

/// The part of a mask, or of its gradient, that a piece reads. Dims of 1 stay.
template <class Void>
BasicTensorView<Void> mask_part(const BasicTensorView<Void>& mask, const Piece& piece,
                                std::int64_t group_size, bool broadcast_columns) {
  if (mask.absent() || !piece.unit.mask_column) return {};
  const TokenRange ranges[] = {
      piece.batch,
      q_heads_of(piece, group_size),
      piece.unit.queries,
      {*piece.unit.mask_column, *piece.unit.mask_column + piece.unit.keys.size()}};
  BasicTensorView<Void> part = mask;
  for (int dim = 0; dim < mask.rank(); ++dim) {
    const int axis = 4 - mask.rank() + dim;
    const bool columns = axis == 3;
    if (columns ? broadcast_columns : mask.shape[dim] == 1) continue;
    part = part.sliced(dim, ranges[axis].begin, ranges[axis].end);
  }
  return part;
}

/// The options of a piece. They refer to the functions in `options`, which outlive them.
AttentionOptions options_of(const Piece& piece, const AttentionOptions& options,
                            std::int64_t group_size);

/// The inputs of a piece: q, k, v, scales, mask and slopes.
AttentionTensors inputs_of(const Piece& piece, const AttentionTensors& call, const KeyBlock& block,
                           std::int64_t group_size, const CallGeometry& geometry);

}  // namespace attn::mpi
