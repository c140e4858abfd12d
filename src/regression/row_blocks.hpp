// Rows of a matrix in double, eight at a time. Eight rows lie side by side, so that a vector of the
// processor holds one number of several rows, and no sum is ever taken across a vector: results are
// the same whatever its width.
#pragma once

#include <attn/tensor.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "threads/parallel.hpp"

namespace attn::detail {

/// Rows side by side.
inline constexpr std::int64_t lanes = 8;

/// Eight rows, or fewer at the end of the matrix; lanes without a row hold zeros.
struct RowBlock {
  std::int64_t first = 0, count = 0;  // rows of the matrix
  std::vector<double> rows;           // [lanes][columns]
  std::vector<double> side_by_side;   // [columns][lanes]
};

/// A matrix that is read in blocks, f32, bf16, f16 or f64 with any strides.
class RowBlocks {
 public:
  /// The matrix has been checked. With ones, each row has a column of ones after its own.
  enum class Ones { no, yes };
  RowBlocks(const TensorView& matrix, Ones ones);
  /// Lets read() subtract a number from each column of the matrix, or nothing.
  void subtract(std::vector<double> of_columns) noexcept { subtracted_ = std::move(of_columns); }

  std::int64_t rows() const noexcept { return matrix_.shape[0]; }
  std::int64_t columns() const noexcept { return columns_; }
  std::int64_t blocks() const noexcept { return (rows() + lanes - 1) / lanes; }
  /// Reads block `index`. The memory is allocated by the first call.
  void read(std::int64_t index, RowBlock& block) const;

 private:
  TensorView matrix_;
  bool ones_;
  std::int64_t columns_;
  std::vector<double> subtracted_;
};

/// Blocks of rows, divided into chunks. Each thread processes whole chunks, and what the chunks
/// give is added in their order. Their number follows from the sizes alone.
struct Chunks {
  /// `sums` is how many doubles a chunk gives: many of them take memory, so that there are fewer
  /// chunks.
  Chunks(std::int64_t num_blocks, std::int64_t sums) noexcept;
  std::int64_t begin(std::int64_t chunk) const noexcept { return blocks * chunk / count; }

  std::int64_t blocks, count;
};

/// Calls f(block index, chunk, thread) for each block of each chunk, in order within a chunk.
template <class F>
void for_each_block(const Chunks& chunks, const Threads& threads, F&& f) {
  parallel_for(threads, chunks.count, [&](std::int64_t chunk, int thread) {
    for (std::int64_t index = chunks.begin(chunk); index < chunks.begin(chunk + 1); ++index)
      f(index, chunk, thread);
  });
}

/// `size` numbers for each chunk, which the chunk's thread adds to.
class ChunkSums {
 public:
  ChunkSums(const Chunks& chunks, std::int64_t size)
      : size_(static_cast<std::size_t>(size)), chunks_(static_cast<std::size_t>(chunks.count)) {
    sums_.resize(size_ * chunks_);
  }
  double* of(std::int64_t chunk) noexcept {
    return sums_.data() + static_cast<std::size_t>(chunk) * size_;
  }
  void clear() noexcept { sums_.assign(sums_.size(), 0); }
  /// Sets `total` to the sums over chunks.
  void add_up(double* total) const noexcept;

 private:
  std::size_t size_, chunks_;
  std::vector<double> sums_;
};

/// The sums over rows of the `size` numbers that f(block, sums) adds for each block.
template <class F>
std::vector<double> sum_over_rows(const RowBlocks& rows, std::int64_t size,
                                  const Threads& given_threads, F&& f) {
  const Chunks chunks(rows.blocks(), size);
  ChunkSums sums(chunks, size);
  const Threads threads = threads_for(rows.rows() * rows.columns() / lanes, given_threads);
  std::vector<RowBlock> scratch(static_cast<std::size_t>(threads.count));
  for_each_block(chunks, threads, [&](std::int64_t number, std::int64_t chunk, int thread) {
    RowBlock& block = scratch[static_cast<std::size_t>(thread)];
    rows.read(number, block);
    f(block, sums.of(chunk));
  });
  std::vector<double> total(static_cast<std::size_t>(size));
  sums.add_up(total.data());
  return total;
}

/// z[c][lane] = sum_k parameters[c][k] x[k][lane] for the rows x of a block.
void multiply_rows(const RowBlock& block, std::int64_t columns, const double* parameters,
                   std::int64_t classes, double* z) noexcept;
/// sums[c][k] += sum_lane factors[c][lane] x[lane][k]
void add_products(const RowBlock& block, std::int64_t columns, const double* factors,
                  std::int64_t classes, double* sums) noexcept;

/// Subtracts the greatest logit of each row: z[c][lane] <= 0, and 0 for the top class.
void subtract_greatest(std::int64_t classes, double* z) noexcept;
/// p = exp(z * scale), z <= 0, and their sums over classes, sum[lane]. p may be z.
void exp_rows(std::int64_t classes, const double* z, double scale, double* p, double* sum) noexcept;
/// Turns logits into softmax(z / temperature).
void softmax_rows(std::int64_t classes, double temperature, double* z) noexcept;
/// The first class of a row whose z is 0, which subtract_greatest() has made.
std::int64_t top_class(std::int64_t classes, const double* z, std::int64_t lane) noexcept;

}  // namespace attn::detail
