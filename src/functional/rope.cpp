#include "functional/rope.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "kernels/rows.hpp"
#include "softmax/arguments.hpp"
#include "softmax/slices.hpp"
#include "tensor/checks.hpp"
#include "threads/parallel.hpp"

namespace attn::detail {
namespace {

std::int64_t pairs_of(const Rope& rope) noexcept { return rope.cos.shape[rope.cos.rank() - 1]; }

void check_table(const std::string& name, const TensorView& table, int rank, const char* layout) {
  require_rank(name.c_str(), table, rank, layout);
  require_type(name.c_str(), table, DType::f32);
  require_data(name.c_str(), table);
}

/// Both tables are of the rank that the layout, positions and rotary_dim / 2, has, and turn rows of
/// head_dim elements.
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

/// A row of a table.
Row row_at(const TensorView& table, std::int64_t position) noexcept {
  const auto* data = static_cast<const float*>(table.data) + position * table.strides[0];
  return {reinterpret_cast<std::byte*>(const_cast<float*>(data)), DType::f32, table.strides[1]};
}

/// Tables of their own for each batch entry, or those for all.
Rope tables_of(const Rope& rope, std::int64_t entry) {
  const auto of_entry = [&](const TensorView& table) -> TensorView {
    const auto* data = static_cast<const float*>(table.data) + entry * table.strides[0];
    return {
        data, DType::f32, {table.shape[1], table.shape[2]}, {table.strides[1], table.strides[2]}};
  };
  if (rope.cos.rank() == 2) return rope;
  return {.cos = of_entry(rope.cos), .sin = of_entry(rope.sin), .interleaved = rope.interleaved};
}

/// Which row of the tables turns a row of x.
class PositionIds {
 public:
  explicit PositionIds(const TensorView& ids) noexcept : ids_(ids) {}

  std::int64_t at(std::int64_t entry, std::int64_t n) const noexcept {
    if (ids_.absent()) return n;
    const std::int64_t offset = entry * ids_.strides[0] + n * ids_.strides[1];
    return ids_.dtype == DType::i64 ? static_cast<const std::int64_t*>(ids_.data)[offset]
                                    : static_cast<const std::int32_t*>(ids_.data)[offset];
  }

 private:
  TensorView ids_;
};

void check_position_ids(const TensorView& x, const Rope& tables, const TensorView& ids) {
  require_rank("position_ids", ids, 2, "[batch, seq]");
  if (ids.dtype != DType::i32 && ids.dtype != DType::i64) {
    reject(fmt::format("position_ids has type {}; it needs i32 or i64", name_of(ids.dtype)));
  }
  require_extent("position_ids", ids, 0, x.shape[0], "batch of x");
  require_extent("position_ids", ids, 1, x.shape[2], "seq of x");
  require_data("position_ids", ids);
  const PositionIds positions(ids);
  const std::int64_t rows = tables.cos.shape[0];
  for (std::int64_t entry = 0; entry < ids.shape[0]; ++entry) {
    for (std::int64_t n = 0; n < ids.shape[1]; ++n) {
      const std::int64_t position = positions.at(entry, n);
      if (position >= 0 && position < rows) continue;
      reject(
          fmt::format("position_ids[{}, {}] is {}; it needs to be 0 or more and less than {} "
                      "(positions of tables.cos)",
                      entry, n, position, rows));
    }
  }
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

/// The rows of some positions of one batch entry, turned: all that a thread takes at a time.
class Turning {
 public:
  Turning(const TensorView& x, const MutableTensorView& y, const ResolvedExecution& resources)
      : x_(x), y_(y), kernels_(resources.kernels) {
    if (x.shape[3] > most_on_stack)
      staging_ = Tensor(DType::f32, {resources.num_threads, x.shape[3]});
  }

  void rows(const Rope& tables, const PositionIds& positions, std::int64_t entry,
            std::int64_t first, std::int64_t last, int thread) {
    std::array<float, most_on_stack> on_stack;
    float* const staging =
        staging_.size() > 0 ? staging_.data<float>() + thread * x_.shape[3] : on_stack.data();
    // In the order of memory.
    const bool heads_apart = std::abs(y_.strides[1]) > std::abs(y_.strides[2]);
    const std::int64_t heads = x_.shape[1], count = last - first;
    for (std::int64_t n = 0; n < heads * count; ++n) {
      const std::int64_t head = heads_apart ? n / count : n % heads;
      const std::int64_t at = first + (heads_apart ? n % count : n / heads);
      row(tables, positions.at(entry, at), row_of(x_, entry, head, at), row_of(y_, entry, head, at),
          staging);
    }
  }

 private:
  void row(const Rope& tables, std::int64_t position, const Row& from, const Row& to,
           float* staging) {
    float* const floats = to.dense_f32() ? to.floats() : staging;
    if (from.floats() != floats || !from.dense_f32()) read_row(from, x_.shape[3], kernels_, floats);
    rotate(tables, position, kernels_, floats);
    if (!to.dense_f32()) write_row(floats, x_.shape[3], kernels_, to);
  }

  static constexpr std::int64_t most_on_stack = 2048;  // elements of a row

  TensorView x_;
  MutableTensorView y_;
  const kernels::Kernels& kernels_;
  Tensor staging_;  // a longer row for each thread
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
  constexpr std::int64_t at_once = 128;  // a multiple of every vector width
  std::array<float, at_once> cos_staging, sin_staging;
  const std::int64_t pairs = pairs_of(rope);
  Row cos = row_at(rope.cos, position), sin = row_at(rope.sin, position);
  for (std::int64_t n = 0; n < pairs; n += at_once) {
    const std::int64_t count = std::min(at_once, pairs - n);
    const float* const cosines =
        as_floats({cos.at(n), cos.dtype, cos.stride}, count, kernels, cos_staging.data());
    const float* const sines =
        as_floats({sin.at(n), sin.dtype, sin.stride}, count, kernels, sin_staging.data());
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
  ResolvedExecution resources = resolve(execution);
  if (x.size() == 0) return;
  constexpr std::int64_t lighter = 4;  // than an exponential is the turning of an element
  resources.num_threads = threads_for(x.size() / lighter, resources.num_threads);
  constexpr std::int64_t at_once = 16;  // positions
  const std::int64_t seq = x.shape[2], pieces = (seq + at_once - 1) / at_once;
  const PositionIds positions(position_ids);
  Turning turning(x, y, resources);
  std::atomic<std::int64_t> next{0};
  parallel(resources.num_threads, [&](Team& team, int thread) {
    for (std::int64_t piece = next++; piece < x.shape[0] * pieces && !team.failed();
         piece = next++) {
      const std::int64_t entry = piece / pieces, first = piece % pieces * at_once;
      team.attempt([&] {
        turning.rows(tables_of(tables, entry), positions, entry, first,
                     std::min(first + at_once, seq), thread);
      });
    }
  });
}

}  // namespace attn
