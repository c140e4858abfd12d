// The keys and values of a column as operands, and their products with tiles of rows.
#pragma once

#include <optional>

#include "attention/query_tiles.hpp"
#include "backward/context.hpp"
#include "backward/workspace.hpp"

namespace attn::detail {

class KeyColumn {
 public:
  KeyColumn(const BackwardContext& context, const ColumnScratch& scratch);

  /// Packs K and V as the operands of Q K^T and dout V^T, and K as that of dS K.
  void pack(const HeadQueries& head, KeyRange keys);
  /// Whether all packed keys are finite.
  bool keys_finite() const noexcept { return keys_finite_; }

  /// Says that the tiles that follow belong to a block of rows. oneDNN multiplies it at once if it
  /// is whole: it has all its rows, and all of them see all keys of a whole column.
  void begin_block(const HeadSlot& slot, const QueryBlock& rows, std::int64_t column);

  /// Writes the scores S of a tile, after all transforms, to tile.scores, and dP to `gradients`,
  /// where rows are as far apart. Hidden keys within the range of a row have a score of -inf; what
  /// is outside is not specified.
  void multiply(const HeadSlot& slot, QueryTile& tile, float* gradients,
                const SavedScores& saved = {}, kernels::PrefetchWalk* prefetch = nullptr);
  /// Whether Q and dout of a tile's rows are finite.
  static bool finite_rows(const HeadSlot& slot, const QueryTile& tile);

  Row query(const QueryTile& tile, std::int64_t r) const;
  Row dout(const QueryTile& tile, std::int64_t r) const;
  /// K as the operand of dS K, from a key (or pair) on.
  kernels::Panels key_rows(std::int64_t depth) const noexcept {
    return {scratch_.key_rows + depth * context_.plan.key_width, context_.plan.key_rows};
  }

 private:
  struct Product {
    const float* rows;
    std::int64_t row_stride;
    std::int64_t count;
    kernels::Panels panels;  // of keys
    std::int64_t depth;
    float* to;
    kernels::PrefetchWalk* prefetch = nullptr;
  };
  /// Rows of K or V, and the same as packed elements.
  struct Rows {
    Row first;
    std::int64_t stride;  // in elements
    std::int64_t count;
    std::int64_t width;
  };
  struct Operand {
    const float* rows;
    std::int64_t stride;
  };
  Operand read(const Rows& rows) const;
  kernels::Panels keys_transposed() const noexcept {
    return {scratch_.keys_transposed, context_.plan.keys_transposed};
  }
  kernels::Panels values_transposed() const noexcept {
    return {scratch_.values_transposed, context_.plan.values_transposed};
  }
  void pack_transposed(const Operand& rows, std::int64_t count, std::int64_t depth,
                       const kernels::Panels& to, std::int64_t first, std::int64_t padded) const;
  void multiply(const Product& product, const QueryTile& tile) const;
  void multiply_rows(const HeadSlot& slot, const QueryTile& tile, float* gradients,
                     kernels::PrefetchWalk* prefetch) const;
  void copy_products(const QueryTile& tile, float* gradients) const;
  void multiply_raw_rows(const HeadSlot& slot, const QueryTile& tile, float* gradients) const;

  const BackwardContext& context_;
  ColumnScratch scratch_;
  QueryTiles tiles_;
  std::optional<onednn::MatmulCall> scores_, gradients_;
  bool multiplied_ = false;  // the block of rows, by oneDNN
  bool keys_finite_ = true;
};

}  // namespace attn::detail
