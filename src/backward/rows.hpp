// The rows of a head before and after its columns: Q and dout become operands, what scores are
// compared with is computed once a row, and the copies of dQ are added up.
#pragma once

#include <limits>

#include "attention/query_tiles.hpp"
#include "backward/context.hpp"
#include "backward/key_column.hpp"
#include "backward/workspace.hpp"

namespace attn::detail {

class BackwardRows {
 public:
  BackwardRows(const BackwardContext& context, const BackwardScratch& scratch,
               const ColumnScratch& own)
      : context_(context),
        scratch_(scratch),
        own_(own),
        tiles_(context.forward, context.blocking(), own.tiles),
        keys_(context, own) {}

  /// Fills block `q_block` of the rows of a slot. `first_row` is the number of the head's first row
  /// among all rows of the call.
  void prepare(const HeadQueries& head, std::int64_t q_block, const HeadSlot& slot,
               std::int64_t first_row);
  /// Writes block `q_block` of dQ, and adds up what was summed for each row.
  void finish(const HeadQueries& head, std::int64_t q_block, const HeadSlot& slot,
              const Columns& columns, std::int64_t first_row);

 private:
  /// Rows of Q or dout, in their two forms.
  struct Operands {
    float* rows;
    float* summed_rows;
    std::uint8_t* finite;
    std::int64_t width, stride;
    std::int64_t row_stride;  // of the rows to pack, in elements; 0 if they are not evenly spaced
    kernels::PanelLayout layout;
  };
  template <class RowOf>
  void pack(const QueryBlock& rows, const Operands& to, RowOf row_of);
  void find_statistics(const QueryBlock& rows, std::int64_t r, const HeadSlot& slot,
                       std::int64_t first_row);
  void find_exact_lse(const QueryBlock& rows, const HeadSlot& slot, std::int64_t first_row);
  /// The sum of exp(scale * (score - maximum)) over the scores of a row.
  struct ExactSum {
    float maximum = -std::numeric_limits<float>::infinity();
    double sum = 0;

    void add(float score, double scale);
  };
  void keep_exact_lse(const QueryBlock& rows, std::int64_t r, const ExactSum& row_sum,
                      const HeadSlot& slot, std::int64_t first_row);
  float lse_of(const QueryBlock& rows, std::int64_t r) const;
  bool is_softmax() const noexcept;
  double delta_of(const QueryRow& query);
  void find_thresholds(const QueryBlock& rows, const HeadSlot& slot, std::int64_t first_row);
  void compute_full_rows(const QueryBlock& rows, const HeadSlot& slot);
  void keep_sink_term(std::int64_t row, double term) const;
  void write_dq(const QueryBlock& rows, std::int64_t r, const HeadSlot& slot, KeyRange chunks);
  QueryBlock block_of(const HeadQueries& head, std::int64_t q_block) const;

  const BackwardContext& context_;
  const BackwardScratch& scratch_;
  ColumnScratch own_;
  QueryTiles tiles_;
  KeyColumn keys_;
};

}  // namespace attn::detail
