// Clears and merges states, row by row. Rows are processed in chunks on the stack, so nothing is
// allocated, and `into` may be one of the parts. The sums are doubles: the shares of a row add up
// to 1 by no more than what O's rounding hides, however many parts there are.
#include <attn/error.hpp>
#include <attn/isa.hpp>
#include <attn/state.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include "iterate/execution.hpp"
#include "iterate/row.hpp"
#include "kernels/select.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/copy.hpp"
#include "tensor/indexing.hpp"
#include "tensor/rounding.hpp"
#include "threads/parallel.hpp"

namespace attn {
using namespace detail;
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

void require_dims(const char* name, const TensorView& tensor, const Dims& needed,
                  const char* meaning) {
  require_rank(name, tensor, needed.rank(), meaning);
  for (int dim = 0; dim < needed.rank(); ++dim)
    require_extent(name, tensor, dim, needed[dim], meaning);
}

/// What the tensors of a state are called in messages.
struct Names {
  const char* out;
  const char* lse;
};

/// The dims that count rows.
Dims dims_of_rows(const TensorView& out) { return {out.shape.begin(), out.rank() - 1}; }

void check(const Names& names, const ConstAttentionState& state) {
  const TensorView& out = state.out;
  if (out.rank() == 0)
    reject(fmt::format("{} has shape [] of rank 0; it needs rank 1 or more: [..., v_head_dim]",
                       names.out));
  require_float(names.out, out);
  if (state.lse.dtype != DType::f32 && state.lse.dtype != DType::f64)
    reject(fmt::format("{} has type {}; it needs f32 or f64", names.lse, name_of(state.lse.dtype)));
  require_dims(names.lse, state.lse, dims_of_rows(out), "the dims of its out but the last");
  require_data(names.out, out);
  require_data(names.lse, state.lse);
}

double read_lse(const TensorView& lse, const Dims& row) {
  const std::byte* const element = address_of(lse, row);
  return lse.dtype == DType::f64 ? *reinterpret_cast<const double*>(element)
                                 : *reinterpret_cast<const float*>(element);
}

void write_lse(const MutableTensorView& lse, const Dims& row, double value) {
  std::byte* const element = address_of(lse, row);
  if (lse.dtype == DType::f64)
    *reinterpret_cast<double*>(element) = value;
  else
    *reinterpret_cast<float*>(element) = static_cast<float>(value);
}

/// Keeps the bits of a row of the same type, whatever they are.
void copy_row(const Row& from, std::int64_t count, const Row& to) {
  copy_elements({from.data, from.dtype, {count}, {from.stride}},
                {to.data, to.dtype, {count}, {to.stride}});
}

void clear_row(const Row& row, std::int64_t count) {
  const float zero = 0;
  copy_elements({&zero, DType::f32, {count}, {0}}, {row.data, row.dtype, {count}, {row.stride}});
}

using Parts = std::span<const ConstAttentionState>;

/// What the lse of the parts say of a row. The shares exp(lse_i - lse) follow from lse before it is
/// rounded: where it is large, they would be far off otherwise. Nothing overflows: a double has
/// room for the difference of any two floats, and no exponent is above 0.
struct RowShares {
  double greatest = minus_infinity;  // lse
  double sum = 0;                    // of exp(lse_i - greatest)
  std::size_t with_keys = 0;         // parts
  std::size_t last = 0;              // the last of these

  RowShares(Parts parts, const Dims& row) {
    for (std::size_t n = 0; n < parts.size(); ++n) {
      const double lse = read_lse(parts[n].lse, row);
      if (lse == minus_infinity) continue;
      greatest = with_keys == 0 ? lse : std::max(greatest, lse);
      last = n;
      ++with_keys;
    }
    if (with_keys < 2) return;
    for (const ConstAttentionState& part : parts) sum += unnormalized(read_lse(part.lse, row));
  }
  double unnormalized(double lse) const {
    return lse == minus_infinity ? 0 : std::exp(lse - greatest);
  }
  double lse() const { return with_keys < 2 ? greatest : greatest + std::log(sum); }
};

/// Each chunk is read before it is written, as `into` may be a part.
void add_rows(Parts parts, const Dims& row, const RowShares& shares,
              const kernels::Kernels& kernels, const MutableTensorView& out) {
  constexpr std::int64_t chunk_size = 256;
  float staging[chunk_size];
  double sums[chunk_size];
  const std::int64_t count = out.shape[out.rank() - 1];
  for (std::int64_t first = 0; first < count; first += chunk_size) {
    const std::int64_t size = std::min(chunk_size, count - first);
    std::fill_n(sums, size, -0.0);  // keeps the sign of zeros
    for (const ConstAttentionState& part : parts) {
      const double lse = read_lse(part.lse, row);
      if (lse == minus_infinity) continue;
      const float* const x = as_floats(row_of(part.out, row).from(first), size, kernels, staging);
      kernels.rows.add_scaled(x, size, shares.unnormalized(lse) / shares.sum, sums);
    }
    std::transform(sums, sums + size, staging, [](double sum) { return static_cast<float>(sum); });
    write_row(staging, size, kernels, row_of(out, row).from(first));
  }
}

/// Merges one row. A part without keys is not read.
void merge_row(Parts parts, const Dims& row, const kernels::Kernels& kernels,
               const AttentionState& into) {
  const RowShares shares(parts, row);
  const std::int64_t count = into.out.shape[into.out.rank() - 1];
  if (shares.with_keys == 0)
    clear_row(row_of(into.out, row), count);
  else if (shares.with_keys == 1)
    copy_row(row_of(parts[shares.last].out, row), count, row_of(into.out, row));
  else
    add_rows(parts, row, shares, kernels, into.out);
  write_lse(into.lse, row, shares.lse());
}

void merge_checked(Parts parts, const AttentionState& into) {
  const kernels::Kernels& kernels = kernels::kernels_for(default_isa());
  for_each_index(into.lse.shape, [&](const Dims& row) { merge_row(parts, row, kernels, into); });
}

void check_output(const Names& names, const AttentionState& state) {
  check(names, state);
  require_elements_apart(names.out, state.out);
  require_elements_apart(names.lse, state.lse);
}

void check_part(const Names& names, const ConstAttentionState& part, const AttentionState& into) {
  check(names, part);
  require_dims(names.out, part.out, into.out.shape, "the dims of into.out");
}

constexpr Names names_of_into{"into.out", "into.lse"};

}  // namespace

void clear(const AttentionState& state) {
  check_output({"state.out", "state.lse"}, state);
  const std::int64_t count = state.out.shape[state.out.rank() - 1];
  for_each_index(state.lse.shape, [&](const Dims& row) {
    clear_row(row_of(state.out, row), count);
    write_lse(state.lse, row, minus_infinity);
  });
}

void merge(const AttentionState& into, const ConstAttentionState& part) {
  check_output(names_of_into, into);
  check_part({"part.out", "part.lse"}, part, into);
  merge_checked(std::array{ConstAttentionState(into), part}, into);
}

void merge(const ConstAttentionState& a, const ConstAttentionState& b, const AttentionState& into) {
  check_output(names_of_into, into);
  check_part({"a.out", "a.lse"}, a, into);
  check_part({"b.out", "b.lse"}, b, into);
  merge_checked(std::array{a, b}, into);
}

void merge(std::span<const ConstAttentionState> parts, const AttentionState& into,
           const Execution& execution) {
  check_output(names_of_into, into);
  for (std::size_t n = 0; n < parts.size(); ++n) {
    const std::string out = fmt::format("parts[{}].out", n), lse = fmt::format("parts[{}].lse", n);
    check_part({out.c_str(), lse.c_str()}, parts[n], into);
  }
  const ResolvedExecution resolved = resolve(execution);
  constexpr std::int64_t rows_at_once = 16;
  constexpr std::int64_t elements_per_exponential = 4;  // that cost the same
  const std::int64_t rows = into.lse.size();
  const auto elements = static_cast<std::int64_t>(parts.size()) * into.out.size();
  const Threads threads = threads_for(elements / elements_per_exponential, resolved.threads);
  parallel_for(threads, divide_up(rows, rows_at_once), [&](std::int64_t block) {
    const std::int64_t end = std::min(rows, (block + 1) * rows_at_once);
    for (std::int64_t row = block * rows_at_once; row < end; ++row)
      merge_row(parts, index_of(into.lse.shape, row), resolved.kernels, into);
  });
}

}  // namespace attn
