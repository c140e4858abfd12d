// Two independent ways to the same result, for tests and comparisons: the textbook in double, and
// the unfused baseline.
#pragma once

#include <attn/attention.hpp>
#include <attn/attention_backward.hpp>
#include <attn/export.hpp>

#include <cstddef>

namespace attn {

/// Where in the order of operations the scores are taken.
enum class ScoreStage {
  scaled,   // softmax_scale * Q K^T
  capped,   // after softcap
  masked,   // after ALiBi, additive mask, score_mod and visibility: hidden keys are -inf
  weights,  // after softmax, or the normalizer in its place; a row that sees no key is 0
};

/// Attention row by row in double precision, without blocks, with O(kv_len) memory for a row. The
/// same tensors, options and errors as attention(); isa and score_matmul do not matter to it. Any
/// q, k, v, out of f64 is taken as well.
ATTN_API void attention_reference(const AttentionTensors& tensors,
                                  const AttentionOptions& options = {},
                                  const Execution& execution = {});

/// The gradients of attention_backward() in double precision, row by row, without blocks, from Q,
/// K, V, dout and dlse alone: O and lse are computed again, so tensors.out and tensors.lse may be
/// absent. The same errors; any of q, k, v, dout, dlse and the outputs of f64 is taken as well.
ATTN_API void attention_backward_reference(const AttentionTensors& tensors,
                                           const AttentionGradients& gradients,
                                           const AttentionOptions& options = {},
                                           const Execution& execution = {});

/// The scores at one stage into `scores` [batch, num_q_heads, q_len, kv_len], f32 or f64.
/// `tensors.v` and `tensors.out` may be absent: they are not touched. kv_len is that of the longest
/// sequence, a ring's capacity, or max_pages * page_size; keys that such a sequence does not have
/// are as hidden ones at every stage. With q_offsets: Error(unsupported).
ATTN_API void reference_scores(const AttentionTensors& tensors, const AttentionOptions& options,
                               ScoreStage stage, const MutableTensorView& scores,
                               const Execution& execution = {});

/// What one writes first: oneDNN matmul, mask, softmax, matmul, with the whole score matrix in
/// memory, in f32. The same tensors, options and errors as attention(). A normalizer that oneDNN
/// lacks is a loop over rows. In a build without oneDNN, the library's micro-kernel multiplies,
/// from a packed copy of K and of V.
ATTN_API void attention_unfused(const AttentionTensors& tensors,
                                const AttentionOptions& options = {},
                                const Execution& execution = {});
/// Bytes of scratch that attention_unfused takes for these tensors, beside what the products
/// themselves allocate for a while. Of a ragged or cached call, or one of i8, the most for any of
/// its sequences, whose keys are copied first; offsets and lengths are read then.
ATTN_API std::size_t unfused_scratch_size(const AttentionTensors& tensors);

}  // namespace attn
