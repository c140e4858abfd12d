// Tiles that oneDNN multiplies: a block of rows against the keys of a block that all of them see.
// Between its two products the tile is what other tiles are: six rows at a time are transformed and
// become probabilities.
//
//   S = Q K^T                           oneDNN: up to 128 x 512 scores, in L2
//   for each 6 rows                     (their scores come to L1 once)
//     transform the rows                as for any tile; dense masks may hide keys
//     P = online softmax of S           rescales the rows of O whose maximum grew
//   O += P V                            oneDNN
//
// P travels to L2 and back, and the exponentials cannot hide behind the multiply-adds, both of
// which the micro-kernel avoids.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "attention/call_context.hpp"
#include "attention/non_finite.hpp"
#include "attention/pack.hpp"
#include "attention/query_tile.hpp"
#include "attention/workspace.hpp"
#include "onednn/matmul.hpp"

namespace attn::detail {

/// What oneDNN can do here; nothing where it does not matter.
OnednnSupport onednn_support(ScoreMatmul asked);

/// oneDNN's products of the tiles of a plan, which are made when they are first needed. All threads
/// of all runs share them.
class TileMatmuls {
 public:
  /// Makes those of the largest tile. Throws Error(unsupported) if oneDNN cannot.
  explicit TileMatmuls(const CallPlan& plan);

  struct Pair {
    std::int64_t rows = 0;
    std::int64_t keys = 0;
    std::shared_ptr<const onednn::Matmul> scores{};  // Q K^T
    std::shared_ptr<const onednn::Matmul> values{};  // P V, added to O; full rows have none
  };
  /// Those of so many rows and keys. Throws as the constructor does.
  Pair find(std::int64_t rows, std::int64_t keys);
  /// What the largest tile is multiplied by.
  const std::string& implementation() const { return pairs_.front().scores->implementation(); }

 private:
  Pair make(std::int64_t rows, std::int64_t keys) const;

  CallPlan plan_;
  std::mutex mutex_;
  std::vector<Pair> pairs_;
};

class WholeTiles {
 public:
  WholeTiles(const CallContext& context, const Packer& packer, const ThreadScratch& scratch);

  /// How many keys of a block, from its first on, oneDNN multiplies with these rows: those that
  /// all rows see as far as intervals of keys say, if there are enough, and little of the products
  /// is padding. It depends on this sequence alone.
  std::int64_t keys_of(const QueryBlock& rows, std::int64_t block) const noexcept;
  /// Whether rows of queries that lie next to each other need not be copied for multiply_keys().
  static bool takes(std::int64_t rows) noexcept { return rows % onednn_row_step == 0; }

  /// Writes S = Q K^T of a tile with so many keys, as keys_of() returned them. `queries` are dense
  /// rows of key_depth packed elements, with room for a multiple of onednn_row_step.
  void multiply_keys(const QueryBlock& rows, std::int64_t block, std::int64_t keys,
                     const PackedHead& packed, const float* queries);
  /// The scores of a row.
  const float* scores(std::int64_t r) const noexcept { return scratch_.score_tile + r * padded_; }
  /// Finds the rows of a tile, which has none but the multiplied keys, among the scores.
  void find_scores(QueryTile& tile) const noexcept;
  /// The online softmax of a tile with transformed scores. `states` are those of the tile's rows.
  /// Pairs of probabilities take half the room of scores, and lie side by side: tiles have to come
  /// in the order of their rows.
  void exponentiate(QueryTile& tile, const PackedHead& packed, std::int64_t block,
                    const SoftmaxStates& states) const;
  /// Writes O += P V, where exponentiate() has seen all rows. out [onednn_rows, value_width]
  void multiply_values(const PackedHead& packed, std::int64_t block, float* out);

 private:
  struct Calls {
    std::int64_t rows;
    std::int64_t keys;
    onednn::MatmulCall scores;
    std::optional<onednn::MatmulCall> values;
  };
  Calls& calls_of(std::int64_t rows, std::int64_t keys);

  const CallContext& context_;
  const Packer& packer_;
  ThreadScratch scratch_;
  NonFiniteValues non_finite_;
  std::vector<Calls> calls_;  // that this thread has made; each allocates memory in oneDNN
  Calls* current_ = nullptr;
  std::int64_t padded_ = 0;  // keys of the current tile, with padding
};

}  // namespace attn::detail
