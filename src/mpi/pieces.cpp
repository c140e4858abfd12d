#include "mpi/pieces.hpp"

namespace attn::mpi {
namespace {

/// Translates what a function of the user is told from numbers of a piece to those of the whole.
struct Translation {
  std::int64_t batch, q_head, kv_head, first_query, first_key;

  KeyRun operator()(KeyRun run) const noexcept {
    run.batch += batch;
    run.q_head += q_head;
    run.kv_head += kv_head;
    run.q_index += first_query;
    run.q_position += first_key;
    run.key_begin += first_key;
    return run;
  }
};

}  // namespace

AttentionOptions options_of(const Piece& piece, const AttentionOptions& options,
                            std::int64_t group_size) {
  AttentionOptions own = options;
  own.mask_keys = MaskKeys::first;
  if (piece.unit.full) {
    own.causal.reset();
    own.window.reset();
    own.q_position.reset();
    return own;
  }
  if (own.causal) own.causal = Causal{};
  own.q_position = QueryPosition::at(piece.unit.q_position);
  const Translation translated{piece.batch.begin, piece.kv_heads.begin * group_size,
                               piece.kv_heads.begin, piece.unit.first_query, piece.unit.first_key};
  if (options.mask_mod) {
    own.mask_mod = [&f = options.mask_mod, translated](const KeyRun& run, bool* visible) {
      f(translated(run), visible);
    };
  }
  if (options.score_mod) {
    own.score_mod = [&f = options.score_mod, translated](const KeyRun& run, float* scores) {
      f(translated(run), scores);
    };
  }
  if (options.score_mod_gradient) {
    own.score_mod_gradient = [&f = options.score_mod_gradient, translated](
                                 const KeyRun& run, const float* scores, float* gradient) {
      f(translated(run), scores, gradient);
    };
  }
  return own;
}

AttentionTensors inputs_of(const Piece& piece, const AttentionTensors& call, const KeyBlock& block,
                           std::int64_t group_size, const CallGeometry& geometry) {
  const Unit& unit = piece.unit;
  const TokenRange q_heads = q_heads_of(piece, group_size);
  AttentionTensors tensors;
  tensors.q = part_of(call.q, piece.batch, q_heads, unit.queries);
  tensors.k = part_of(block.k, piece.batch, piece.kv_heads, unit.keys);
  tensors.v = part_of(block.v, piece.batch, piece.kv_heads, unit.keys);
  tensors.storage.k_scales = part_of(block.k_scales, piece.batch, piece.kv_heads, unit.keys);
  tensors.storage.v_scales = part_of(block.v_scales, piece.batch, piece.kv_heads, unit.keys);
  tensors.mask = mask_part(call.mask, piece, group_size, geometry.mask && geometry.mask->broadcast);
  if (!call.alibi_slopes.absent())
    tensors.alibi_slopes = call.alibi_slopes.sliced(0, q_heads.begin, q_heads.end);
  return tensors;
}

}  // namespace attn::mpi
