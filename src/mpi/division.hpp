// How a call over a cut sequence is divided into calls of attention(): integers in, integers out.
//
// A rank's queries are a few stretches of the sequence, and so are the keys of a block. Within a
// pair of stretches, positions differ from those of the whole by constants, so that the pair is a
// call of its own: query i of the stretch from q on and key j of the stretch from k on stand at
// i + (q + q_position - k) and j on the axis of the pair's keys. Such a call is a unit. Pairs of
// which nothing is visible make no unit; stretches of keys that are visible as a whole join into
// one. Each entry of the batch that has a length of its own makes its own units, since its
// positions and its end are its own.
#pragma once

#include <attn/mask.hpp>
#include <attn/mpi.hpp>

#include <cstdint>
#include <optional>
#include <vector>

namespace attn::mpi {

/// The columns of a dense mask.
struct MaskColumns {
  std::int64_t count = 0;
  MaskKeys keys = MaskKeys::first;
  bool broadcast = false;  // one column stands for all keys
};

/// What of a call decides about visibility, in numbers of the whole sequence.
struct CallGeometry {
  std::int64_t batch = 0, q_len = 0, kv_len = 0;
  std::vector<std::int64_t> kv_lens{};  // of each entry; empty: kv_len
  QueryPosition position{};
  bool causal = false;
  Window window{};
  std::optional<MaskColumns> mask{};
  /// ALiBi and functions of the user: scores depend on where a key is, though it is visible.
  bool scores_have_positions = false;
};

struct Unit {
  TokenRange batch{};
  TokenRange queries{};          // rows of the rank's Q
  std::int64_t first_query = 0;  // of the whole sequence
  TokenRange keys{};             // rows of the block
  std::int64_t first_key = 0;    // of the whole sequence
  /// All queries see all keys, and it does not matter where either stands.
  bool full = false;
  /// Where the first query stands on the axis of the unit's keys.
  std::int64_t q_position = 0;
  /// The column of the mask that is the first key. Empty: the mask says nothing about these keys.
  std::optional<std::int64_t> mask_column{};
};

/// The units of a rank's queries and a block of keys, in the order in which their results are
/// merged.
std::vector<Unit> units_of(const CallGeometry& call, const std::vector<TokenRange>& queries,
                           const std::vector<TokenRange>& keys);

/// A part of a unit that is computed in one go: some entries of the batch, and some KV heads.
struct Piece {
  Unit unit;
  TokenRange batch;
  TokenRange kv_heads;
};
struct HeadSizes {
  std::int64_t num_kv_heads = 0, group_size = 0, head_dim = 0, v_head_dim = 0;
};
/// Units in pieces of about 2^34 flops, and each in `least` pieces if it has as many heads; a piece
/// has one KV head at least. Pieces depend on sizes alone. Between pieces a rank looks whether
/// another one has failed.
std::vector<Piece> pieces_of(const std::vector<Unit>& units, const HeadSizes& sizes,
                             std::int64_t least = 1);

/// For each rank's block of keys, the last step of the ring at which a rank has units with it: in
/// step s it is s ranks further.
std::vector<int> last_steps(const CallGeometry& call, const RingCut& cut);

}  // namespace attn::mpi
