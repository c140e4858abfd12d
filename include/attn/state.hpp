// Attention over part of the keys, and the merge of such parts to the whole.
//
//   O   = sum_j exp(s_j) v_j / sum_j exp(s_j)         lse = log sum_j exp(s_j)        over the keys of one part
//
// Parts a and b of disjoint keys make the whole:
//
//   lse = log(exp(lse_a) + exp(lse_b)),   O = exp(lse_a - lse) O_a + exp(lse_b - lse) O_b
//
// wherever each was computed: a shared prefix and the rest (Juravsky et al. 2024, arXiv:2402.05099), splits of a long cache, other
// machines (Liu et al. 2023, arXiv:2310.01889). merge is associative and commutative to rounding; a part without keys, O = 0 and
// lse = -inf, is its identity, and merging with it keeps the other part's bits. It is what attention() writes for a row that sees
// no key. A sink must be in one part alone.
#pragma once

#include <attn/tensor.hpp>

namespace attn {

/// What attention() writes for some rows and part of their keys.
///   out  [..., v_head_dim]  f32, bf16 or f16; any rank from 1 on, any strides
///   lse  [...]              f32, natural log; the shape of out without its last dim
struct State {
  MutableTensorView out;
  MutableTensorView lse;
};
struct ConstState {
  TensorView out;
  TensorView lse;

  ConstState(const TensorView& part_out, const TensorView& part_lse) : out(part_out), lse(part_lse) {}
  ConstState(const State& state) : out(state.out), lse(state.lse) {}
};

/// Sets a state to the identity: out = 0, lse = -inf.
void clear(const State& state);

/// into = merge of into and part, row by row; out is accumulated in f32 and rounded to its type once. NaN in a part reaches the same
/// row of the result and no other, and so does an lse of +inf, as exp(inf - inf). Throws Error(invalid_argument), before anything is written, for shapes or types that do not fit.
void merge(const State& into, const ConstState& part);
/// into = merge of a and b; into may be a or b, and must not overlap them otherwise.
void merge(const ConstState& a, const ConstState& b, const State& into);

}  // namespace attn
