// The reference and the unfused baseline compute dense calls: padded, with contiguous keys of a
// floating-point type. This file splits any other call (ragged sequences, keys in pages, in a ring
// or in i8) into one dense call for each sequence. It looks up each key separately and shares
// nothing with the engine's KvLayout, because the engine is measured against it.
#pragma once

#include <attn/attention.hpp>
#include <attn/attention_backward.hpp>

#include <cstdint>

#include "attention/problem.hpp"

namespace attn::detail {

/// Whether a call is dense in that sense.
bool is_dense(const AttentionTensors& tensors) noexcept;

/// One sequence of a call as a call of its own, with as many keys as the sequence has. k and v have
/// a shape and a type, but no data.
struct SequenceCall {
  std::int64_t batch;
  AttentionTensors tensors;
  AttentionOptions options;  // its functions receive the batch index of the whole call
};
SequenceCall sequence_call(const Problem& problem, const AttentionTensors& tensors,
                           const AttentionOptions& options, std::int64_t batch, DType kv_type);

/// The parts of a call's gradients that belong to one sequence, whose keys lie contiguously or
/// ragged. dalibi and dsinks belong to all.
AttentionGradients gradients_of_sequence(const AttentionTensors& tensors,
                                         const AttentionGradients& gradients,
                                         const SequenceCall& call);

/// Copies the keys or values of a sequence to [1, num_kv_heads, kv_len, dim]. `rows` is k or v of
/// the whole call, `scales` its scales or absent.
Tensor gather(const AttentionTensors& tensors, const TensorView& rows, const TensorView& scales,
              const SequenceCall& call, DType dtype);

/// Calls attend(call) for each sequence of a validated call, with its keys and values gathered.
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
