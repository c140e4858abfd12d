// Calls in forms that the reference and the unfused baseline do not know by themselves, ragged
// sequences, keys in pages, rings or i8, as a padded call of floats for each sequence. Keys are
// looked up one by one, and in no way that the tiled path uses: it is measured against this.
#pragma once

#include <attn/attention.hpp>

#include <cstdint>

#include "attention/problem.hpp"

namespace attn::detail {

/// Whether a call is padded already, its keys lie in their order and are floats.
bool is_dense(const AttentionTensors& tensors) noexcept;

/// One sequence of a call as a call of its own, with as many keys as it has. k and v have a shape
/// and a type, but no data.
struct SequenceCall {
  std::int64_t batch;
  AttentionTensors tensors;
  AttentionOptions options;  // its functions are told the call's batch index
};
SequenceCall sequence_call(const Problem& problem, const AttentionTensors& tensors,
                           const AttentionOptions& options, std::int64_t batch, DType kv_type);

/// A sequence's keys or values, [1, num_kv_heads, kv_len, dim]. `rows` is k or v of the call,
/// `scales` theirs.
Tensor gather(const AttentionTensors& tensors, const TensorView& rows, const TensorView& scales,
              const SequenceCall& call, DType dtype);

/// Calls attend(call) for each sequence of a validated call, its keys and values gathered.
template <class Attend>
void for_each_sequence(const Problem& problem, const AttentionTensors& tensors,
                       const AttentionOptions& options, DType kv_type, Attend attend) {
  for (std::int64_t batch = 0; batch < problem.sizes.batch; ++batch) {
    SequenceCall call = sequence_call(problem, tensors, options, batch, kv_type);
    const Tensor k = gather(tensors, tensors.k, tensors.storage.k_scales, call, kv_type);
    const Tensor v = tensors.v.absent()
                         ? Tensor()
                         : gather(tensors, tensors.v, tensors.storage.v_scales, call, kv_type);
    call.tensors.k = k.view();
    if (!tensors.v.absent()) call.tensors.v = v.view();
    attend(call);
  }
}

}  // namespace attn::detail
