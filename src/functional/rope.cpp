#include "functional/rope.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "iterate/execution.hpp"
#include "iterate/row.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/indexing.hpp"
#include "tensor/rounding.hpp"
#include "threads/parallel.hpp"

namespace attn::detail {
namespace {

std::int64_t pairs_of(const Rope& rope) noexcept { return rope.cos.shape[rope.cos.rank() - 1]; }

void check_table(const std::string& name, const TensorView& table, int rank, const char* layout) {
  require_rank(name.c_str(), table, rank, layout);
  require_type(name.c_str(), table, DType::f32);
  require_data(name.c_str(), table);
}

/// Checks that both tables have this rank and the same shape, and no more pairs than head_dim has.
void check_tables(const std::string& name, const Rope& rope, std::int64_t head_dim, int rank,
                  const char* layout) {
  const std::string cos = name + ".cos", sin = name + ".sin";
  check_table(cos, rope.cos, rank, layout);
  check_table(sin, rope.sin, rank, layout);
  for (int dim = 0; dim < rank; ++dim) {
    if (rope.sin.shape[dim] == rope.cos.shape[dim]) continue;
    const std::string meaning = (dim == rank - 1   ? "rotary_dim / 2 of "
                                 : dim == rank - 2 ? "positions of "
                                                   : "batch of ") +
                                cos;
    require_extent(sin.c_str(), rope.sin, dim, rope.cos.shape[dim], meaning.c_str());
  }
  if (pairs_of(rope) > head_dim / 2) {
    reject(fmt::format(
        "{} has shape {}: dim {} is {}, but it needs at most {} (half of head_dim = {})", cos,
        rope.cos.shape.to_string(), rank - 1, pairs_of(rope), head_dim / 2, head_dim));
  }
}

/// The tables of a batch entry, which are the same for all entries unless they have rank 3.
Rope tables_of(const Rope& rope, std::int64_t entry) {
  const auto of_entry = [&](const TensorView& table) -> TensorView {
    return {address_of(table, entry), DType::f32, remove_dim(table.shape, 0),
            remove_dim(table.strides, 0)};
  };
  if (rope.cos.rank() == 2) return rope;
  return {.cos = of_entry(rope.cos), .sin = of_entry(rope.sin), .interleaved = rope.interleaved};
}

/// The row of the tables for element n of a sequence.
std::int64_t position_at(const TensorView& position_ids, std::int64_t entry, std::int64_t n) {
  return position_ids.absent() ? n : integer_at(position_ids, entry, n);
}

void check_position_ids(const TensorView& x, const Rope& tables, const TensorView& ids) {
  require_rank("position_ids", ids, 2, "[batch, seq]");
  require_integers("position_ids", ids);
  require_extent("position_ids", ids, 0, x.shape[0], "batch of x");
  require_extent("position_ids", ids, 1, x.shape[2], "seq of x");
  require_data("position_ids", ids);
  const std::int64_t rows = tables.cos.shape[0];
  for_each_index(ids.shape, [&](const Dims& index) {
    const std::int64_t position = integer_at(ids, index);
    if (position >= 0 && position < rows) return;
    reject(
        fmt::format("position_ids[{}, {}] is {}; it needs to be 0 or more and less than {} "
                    "(positions of tables.cos)",
                    index[0], index[1], position, rows));
  });
}

void check_arguments(const TensorView& x, const Rope& tables, const TensorView& position_ids,
                     const MutableTensorView& y) {
  require_rank("x", x, 4, "[batch, heads, seq, dim]");
  require_float("x", x);
  require_data("x", x);
  require_output_like("y", y, "x", x);
  if (tables.cos.rank() == 3) {
    check_tables("tables", tables, x.shape[3], 3, "[batch, seq, rotary_dim / 2], like tables.cos");
    require_extent("tables.cos", tables.cos, 0, x.shape[0], "batch of x");
    require_extent("tables.cos", tables.cos, 1, x.shape[2], "seq of x");
    if (!position_ids.absent())
      reject(
          "position_ids is given; it needs to be absent where tables.cos has rank 3, a row for "
          "each of x");
  } else {
    check_rope("tables", tables, x.shape[3],
               position_ids.absent() && x.size() > 0 ? x.shape[2] : 0);
    if (!position_ids.absent()) check_position_ids(x, tables, position_ids);
  }
}

/// The arguments of rope() and the threads' memory.
class RotationPass {
 public:
  RotationPass(const TensorView& x, const Rope& tables, const TensorView& position_ids,
               const MutableTensorView& y, const ResolvedExecution& resolved)
      : x_(x), tables_(tables), position_ids_(position_ids), y_(y), kernels_(resolved.kernels) {
    if (x.shape[3] > most_on_stack)
      staging_ = Tensor(DType::f32, {resolved.threads.count, x.shape[3]});
  }

  /// Rotates the rows of all heads of one batch entry at first <= position in sequence < last.
  void rotate_rows(std::int64_t entry, std::int64_t first, std::int64_t last, int thread) {
    std::array<float, most_on_stack> on_stack;
    float* const staging =
        staging_.size() > 0 ? staging_.data<float>() + thread * x_.shape[3] : on_stack.data();
    const Rope tables = tables_of(tables_, entry);
    // Rows are processed in the order in which they are written in memory.
    const bool head_major = std::abs(y_.strides[1]) > std::abs(y_.strides[2]);
    const std::int64_t heads = x_.shape[1], count = last - first;
    for (std::int64_t n = 0; n < heads * count; ++n) {
      const std::int64_t head = head_major ? n / count : n % heads;
      const std::int64_t at = first + (head_major ? n % count : n / heads);
      rotate_row(tables, position_at(position_ids_, entry, at), row_of(x_, entry, head, at),
                 row_of(y_, entry, head, at), staging);
    }
  }

 private:
  void rotate_row(const Rope& tables, std::int64_t position, const Row& from, const Row& to,
                  float* staging) {
    float* const floats = to.dense_f32() ? to.floats() : staging;
    if (from.floats() != floats || !from.dense_f32()) read_row(from, x_.shape[3], kernels_, floats);
    rotate(tables, position, kernels_, floats);
    if (!to.dense_f32()) write_row(floats, x_.shape[3], kernels_, to);
  }

  static constexpr std::int64_t most_on_stack = 2048;  // elements of a row

  TensorView x_;
  Rope tables_;
  TensorView position_ids_;
  MutableTensorView y_;
  const kernels::Kernels& kernels_;
  Tensor staging_;  // one row for each thread, if rows are longer than most_on_stack
};

}  // namespace

void check_rope(const char* name, const Rope& rope, std::int64_t head_dim, std::int64_t positions) {
  check_tables(name, rope, head_dim, 2, "[positions, rotary_dim / 2]");
  if (rope.cos.shape[0] < positions) {
    reject(
        fmt::format("{}.cos has shape {}: dim 0 is {}, but it needs at least {} (a row for each "
                    "position up to the last one)",
                    name, rope.cos.shape.to_string(), rope.cos.shape[0], positions));
  }
}

void rotate(const Rope& rope, std::int64_t position, const kernels::Kernels& kernels,
            float* row) noexcept {
  constexpr std::int64_t chunk_size = 128;  // pairs, a multiple of every vector width
  std::array<float, chunk_size> cos_staging, sin_staging;
  const std::int64_t pairs = pairs_of(rope);
  const Row cos = row_of(rope.cos, position), sin = row_of(rope.sin, position);
  for (std::int64_t n = 0; n < pairs; n += chunk_size) {
    const std::int64_t count = std::min(chunk_size, pairs - n);
    const float* const cosines = as_floats(cos.from(n), count, kernels, cos_staging.data());
    const float* const sines = as_floats(sin.from(n), count, kernels, sin_staging.data());
    if (rope.interleaved) {
      kernels.rope_interleaved(row + 2 * n, cosines, sines, count);
    } else {
      kernels.rope_half(row + n, row + pairs + n, cosines, sines, count);
    }
  }
}

}  // namespace attn::detail

namespace attn {
using namespace detail;

void rope(const TensorView& x, const Rope& tables, const TensorView& position_ids,
          const MutableTensorView& y, const Execution& execution) {
  check_arguments(x, tables, position_ids, y);
  ResolvedExecution resolved = resolve(execution);
  if (x.size() == 0) return;
  constexpr std::int64_t elements_per_exponential = 4;  // that cost the same
  resolved.threads = threads_for(x.size() / elements_per_exponential, resolved.threads);
  constexpr std::int64_t piece_size = 16;  // elements of a sequence
  const std::int64_t seq = x.shape[2], pieces = divide_up(seq, piece_size);
  RotationPass pass(x, tables, position_ids, y, resolved);
  parallel_for(resolved.threads, x.shape[0] * pieces, [&](std::int64_t piece, int thread) {
    const std::int64_t first = piece % pieces * piece_size;
    pass.rotate_rows(piece / pieces, first, std::min(first + piece_size, seq), thread);
  });
}

}  // namespace attn
