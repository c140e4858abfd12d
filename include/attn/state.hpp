// Attention over part of the keys, and the merge of such parts to the whole.
//
//   O = sum_j exp(s_j) v_j / sum_j exp(s_j),   lse = log sum_j exp(s_j)     over the keys of a part
//
// Parts a and b of disjoint keys make the whole:
//
//   lse = log(exp(lse_a) + exp(lse_b)),   O = exp(lse_a - lse) O_a + exp(lse_b - lse) O_b
//
// wherever each was computed: a shared prefix and the rest (Juravsky et al. 2024,
// arXiv:2402.05099), splits of a long cache, other machines (Liu et al. 2023, arXiv:2310.01889). A
// part without keys has lse = -inf, and its O counts for nothing, whatever it holds; it is what
// attention() writes for a row that sees no key, and merging with it keeps the other part's bits.
// Apart from that, merge is associative and commutative to rounding: O to that of its type, and a
// share of O to the rounding of lse, eps |lse|.
//
// Where a part is made by attention() on some of the keys, a sink belongs to one part alone, and
// positions count from the part's first key: what is causal with an offset is causal with offset -
// first key there.
#pragma once

#include <attn/execution.hpp>
#include <attn/export.hpp>
#include <attn/tensor.hpp>

#include <span>

namespace attn {

/// What attention() writes for some rows and part of their keys.
///   out  [..., v_head_dim]  f32, bf16 or f16; any rank from 1 on, any strides
///   lse  [...]              f32, or f64 in a state that parts are added to one after another, so
///                           that its rounding does not add up; natural log; the shape of out
///                           without its last dim
/// In a state that is written, no two elements lie in the same place.
struct AttentionState {
  MutableTensorView out;
  MutableTensorView lse;
};
struct ConstAttentionState {
  TensorView out;
  TensorView lse;

  ConstAttentionState(const TensorView& part_out, const TensorView& part_lse)
      : out(part_out), lse(part_lse) {}
  ConstAttentionState(const AttentionState& state) : out(state.out), lse(state.lse) {}
};

/// Sets a state to the identity: out = 0, lse = -inf.
ATTN_API void clear(const AttentionState& state);

/// into = merge of into and part, row by row. Both have the same shape; out types and strides are
/// each their own. out is added up in f32 and rounded to its type once; where neither part has
/// keys, into becomes the identity. A NaN in a part reaches the same element of the result, one in
/// lse the same row, and no other; so does an lse of +inf, as exp(inf - inf). Allocates nothing.
/// Throws Error(invalid_argument), before anything is written, for shapes or types that do not fit.
ATTN_API void merge(const AttentionState& into, const ConstAttentionState& part);
/// into = merge of a and b; into may be a or b, and must not overlap them otherwise.
ATTN_API void merge(const ConstAttentionState& a, const ConstAttentionState& b,
                    const AttentionState& into);
/// into = merge of all parts, in one pass over them and with all threads: each share and each sum
/// is a double, and out and lse are rounded once, however many parts there are. The bits depend on
/// the order of the parts, but not on the number of threads; those of two parts are as above.
/// Without parts, into becomes the identity. into may be one of the parts, and must not overlap
/// them otherwise.
ATTN_API void merge(std::span<const ConstAttentionState> parts, const AttentionState& into,
                    const Execution& execution = {});

}  // namespace attn
