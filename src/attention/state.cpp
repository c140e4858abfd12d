// Clears and merges states, row by row. Rows are processed in chunks on the stack, so nothing is
// allocated, and `into` may be one of the parts.
#include <attn/error.hpp>
#include <attn/isa.hpp>
#include <attn/state.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>

#include "attention/softmax_state.hpp"
#include "iterate/row.hpp"
#include "kernels/select.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/copy.hpp"
#include "tensor/indexing.hpp"

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
  require_type(names.lse, state.lse, DType::f32);
  require_dims(names.lse, state.lse, dims_of_rows(out), "the dims of its out but the last");
  require_data(names.out, out);
  require_data(names.lse, state.lse);
}

float& lse_of(const TensorView& lse, const Dims& row) {
  return *reinterpret_cast<float*>(address_of(lse, row));
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

/// Each chunk is read before it is written, as `into` may be a part.
void add_rows(const Row& row_a, const Row& row_b, const MergeShares& shares, std::int64_t count,
              const kernels::Kernels& kernels, const Row& into) {
  constexpr std::int64_t chunk_size = 256;
  float staging_a[chunk_size], staging_b[chunk_size], sums[chunk_size];
  for (std::int64_t first = 0; first < count; first += chunk_size) {
    const std::int64_t size = std::min(chunk_size, count - first);
    const float* a = as_floats(row_a.from(first), size, kernels, staging_a);
    const float* b = as_floats(row_b.from(first), size, kernels, staging_b);
    for (std::int64_t d = 0; d < size; ++d)
      sums[d] = static_cast<float>(shares.a * a[d] + shares.b * b[d]);
    write_row(sums, size, kernels, into.from(first));
  }
}

/// Merges one row and returns its lse. A part without keys is not read.
float merge_rows(const Row& row_a, float lse_a, const Row& row_b, float lse_b, std::int64_t count,
                 const kernels::Kernels& kernels, const Row& into) {
  if (lse_a == minus_infinity && lse_b == minus_infinity) {
    clear_row(into, count);
    return minus_infinity;
  }
  if (lse_a == minus_infinity) {
    copy_row(row_b, count, into);
    return lse_b;
  }
  if (lse_b == minus_infinity) {
    copy_row(row_a, count, into);
    return lse_a;
  }
  const MergeShares shares = merge_shares(lse_a, lse_b);
  add_rows(row_a, row_b, shares, count, kernels, into);
  return shares.lse;
}

void merge_checked(const ConstAttentionState& a, const ConstAttentionState& b,
                   const AttentionState& into) {
  const kernels::Kernels& kernels = kernels::kernels_for(default_isa());
  const std::int64_t count = into.out.shape[into.out.rank() - 1];
  for_each_index(into.lse.shape, [&](const Dims& row) {
    lse_of(into.lse, row) = merge_rows(row_of(a.out, row), lse_of(a.lse, row), row_of(b.out, row),
                                       lse_of(b.lse, row), count, kernels, row_of(into.out, row));
  });
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
    lse_of(state.lse, row) = minus_infinity;
  });
}

void merge(const AttentionState& into, const ConstAttentionState& part) {
  check_output(names_of_into, into);
  check_part({"part.out", "part.lse"}, part, into);
  merge_checked(into, part, into);
}

void merge(const ConstAttentionState& a, const ConstAttentionState& b, const AttentionState& into) {
  check_output(names_of_into, into);
  check_part({"a.out", "a.lse"}, a, into);
  check_part({"b.out", "b.lse"}, b, into);
  merge_checked(a, b, into);
}

}  // namespace attn
