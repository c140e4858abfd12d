// Sums that overflow, and sums that are too small for the multiplication of bf16.
//
// O is a weighted mean of values, and so never beyond the greatest of them. But the passes divide
// by the sum of the probabilities in the end: where values come near to the greatest float, the sum
// before may be infinite. So the sums of a row are looked at when it ends, and the columns that are
// not finite are added again, in double, with scores that are computed again. The same holds for
// normalizers whose probabilities do not add up to 1.
//
// Where values are tiny (kernels::tiny_bf16), products of bf16 lose them and subnormal sums. There,
// columns of small results are added again as well.
#pragma once

#include "attention/call_context.hpp"
#include "attention/query_tile.hpp"

namespace attn::detail {

/// A pass, as far as it computes a row again.
class RowProbabilities {
 public:
  /// Row r of a block of rows against one block of keys, as a tile of one row, with the
  /// probabilities of the keys in the place of scores. Hidden keys have -inf, not 0: 0 times
  /// infinity is NaN.
  virtual QueryTile probabilities_of(const QueryBlock& rows, std::int64_t r,
                                     std::int64_t block) = 0;
  /// Whether the values of a block may be tiny; false if the pass knows that none is.
  virtual bool may_have_tiny_values(std::int64_t) const { return true; }

 protected:
  ~RowProbabilities() = default;
};

/// Turns the scores of a tile of one row into exp((s - row_max) * scale), except those of -inf.
void exponentiate(const QueryTile& tile, float row_max, float scale) noexcept;

/// A row whose sums are complete.
struct FinalRow {
  const QueryBlock& rows;
  std::int64_t r;
  double factor;      // of the sums
  float small_below;  // less may have been lost where values are tiny; 0 if nothing was
};

class OverflowedSums {
 public:
  /// `staging` holds one row of values.
  OverflowedSums(const CallContext& context, float* staging) noexcept
      : context_(context), staging_(staging) {}

  /// `out` is the row of O, whose probabilities are finite. Columns that are not finite, or less
  /// than small_below although the row sees a tiny value there, become factor times the sum of the
  /// values times their probabilities. Those that visible values make infinite or NaN stay so.
  void repair(const FinalRow& row, RowProbabilities& probabilities, float* out) const;

 private:
  /// Columns that are added at a time.
  static constexpr std::int64_t max_columns = 64;
  struct Columns {
    std::int64_t first;
    std::int64_t count;
    bool wrong[max_columns];
  };

  KeyRange keys_of(const FinalRow& row) const;
  void keep_tiny(const FinalRow& row, RowProbabilities& probabilities, Columns& columns) const;
  bool any_tiny(const QueryBlock& rows, KeyRange keys, const Columns& columns) const;
  void mark_tiny(const QueryBlock& rows, std::int64_t key, const Columns& columns,
                 bool* tiny) const;
  bool follow_from_values(const FinalRow& row, Columns columns, const float* out) const;
  void add(const QueryTile& tile, const Columns& columns, double* sums) const;
  const float* value(const QueryBlock& rows, std::int64_t key, const Columns& columns) const;

  const CallContext& context_;
  float* staging_;
};

}  // namespace attn::detail
