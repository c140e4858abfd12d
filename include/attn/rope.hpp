// Rotary position embedding (Su et al. 2021, arXiv:2104.09864).
#pragma once

#include <attn/execution.hpp>
#include <attn/tensor.hpp>

namespace attn {

/// Turns the first rotary_dim elements of a row at position p: (x, y) -> (x cos - y sin, x sin + y cos), with row p of the tables. The
/// other elements stay as they are.
struct Rope {
  TensorView cos;            // f32 [positions, rotary_dim / 2]; for rope() also [batch, seq, rotary_dim / 2]
  TensorView sin;            // the same
  bool interleaved = false;  // pairs are elements 2n and 2n + 1; else n and n + rotary_dim / 2
};

/// y = x turned. x and y are f32, bf16 or f16 [batch, heads, seq, dim], computed in f32 and rounded once; any strides; y may be the very
/// memory of x, and overlaps no input otherwise. position_ids: i32 or i64 [batch, seq], each a row of the tables; absent: 0, 1, ...,
/// seq - 1 for each batch entry. Tables of rank 3 have a row for each place, and take no position_ids.
/// Throws Error(invalid_argument), before anything is written, for what does not fit and for a position outside the tables, naming it.
void rope(const TensorView& x, const Rope& tables, const TensorView& position_ids, const MutableTensorView& y,
          const Execution& execution = {});

}  // namespace attn
