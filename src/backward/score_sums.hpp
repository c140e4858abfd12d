// Sums of the gradients of scores: dmask, dalibi and dsinks.
//
// A mask with an element for each pair of a query and a key gets dS added in place, in the order of
// the heads that share it. All other sums are taken over the rows of a column or the columns of a
// row first, and over heads in the end, so that their order does not depend on threads.
#pragma once

#include "backward/context.hpp"
#include "backward/workspace.hpp"

namespace attn::detail {

class ScoreSums {
 public:
  ScoreSums(const BackwardContext& context, const BackwardScratch::Shared& shared)
      : context_(context),
        shared_(shared),
        dmask_(dense_mask(context.gradients.dmask, {context.forward.tensors, context.sizes()},
                          context.forward.call.problem.mask_keys)) {}

  /// Begins the sums of a column.
  void start_column(const ColumnScratch& scratch) const noexcept;
  /// Begins the sums of `count` rows over the columns of a chunk.
  void start_rows(const HeadSlot& slot, std::int64_t chunk, std::int64_t first,
                  std::int64_t count) const noexcept;
  /// Adds dS of a run of keys of row `row` of the head, the first of which is key `first_key` of
  /// the column.
  struct Run {
    const QueryRow& query;
    std::int64_t row;
    KeyRange keys;
    std::int64_t first_key;
    const float* gradient;
  };
  void add(const Run& run, const HeadSlot& slot, std::int64_t chunk,
           const ColumnScratch& scratch) const noexcept;
  /// Keeps the sums of a column.
  void finish_column(const HeadQueries& head, KeyRange keys,
                     const ColumnScratch& scratch) const noexcept;

  /// Before the first column of the call, and after the last.
  void start() const noexcept;
  void write(const BackwardSchedule& schedule) const noexcept;

  /// The head whose columns add to the same elements of dmask before those of `head`, and which has
  /// a column of that number; -1 if there is none. Where heads take turns as a whole, it has any
  /// column.
  std::int64_t head_before(const BackwardSchedule& schedule, std::int64_t head,
                           std::int64_t column) const noexcept;
  /// Whether all columns of a head wait for all of the head before, as columns of the same number
  /// add to other elements: the last keys of sequences of different lengths share them.
  bool heads_take_turns() const noexcept {
    return sums(MaskSums::elements) && dmask_.keys == MaskKeys::last &&
           dmask_.batch_shares_rows() && dmask_.lengths.differ_in_keys() &&
           context_.sizes().batch > 1;
  }

 private:
  template <class SumOf>
  void write_per_head(const MutableTensorView& to, double factor, SumOf sum_of) const;
  template <class SumOf>
  void write_mask(SumOf sum_of) const;
  /// The queries of a sequence among those that an index of a dim of the mask stands for.
  KeyRange queries_of(std::int64_t batch, KeyRange among) const noexcept;
  bool sums(MaskSums kind) const noexcept { return context_.plan.extras.mask_sums == kind; }

  const BackwardContext& context_;
  const BackwardScratch::Shared& shared_;
  DenseMask dmask_;
};

}  // namespace attn::detail
