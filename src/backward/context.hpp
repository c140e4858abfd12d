// What the steps of a backward call share.
#pragma once

#include <attn/attention_backward.hpp>

#include <memory>
#include <optional>

#include "attention/call_context.hpp"
#include "attention/query_tile.hpp"
#include "backward/plan.hpp"
#include "onednn/matmul.hpp"

namespace attn::detail {

/// A backward call that was validated and planned. It does not change from run to run.
struct PreparedBackward {
  PreparedCall call;  // with the blocks of `plan`, so that tiles of rows are those of the forward
  BackwardPlan plan;
  // oneDNN's products of whole blocks, Q K^T and dout V^T; null where plan.call.onednn_rows is 0.
  std::shared_ptr<const onednn::Matmul> scores_matmul{}, gradients_matmul{};
};

/// The gradients as the tensors that they belong to: dq for q, dout for out, dlse for lse, so that
/// KvLayout finds their rows.
AttentionTensors in_place_of_tensors(const AttentionTensors& tensors,
                                     const AttentionGradients& gradients);

/// Which sums of dS make dmask.
MaskSums mask_sums(const TensorView& dmask, const AttentionTensors& tensors,
                   const Problem& problem) noexcept;

/// Whether several heads, or batch entries, share elements of dmask.
bool heads_share_mask(const TensorView& dmask, const Sizes& sizes) noexcept;

/// One run of a prepared backward call.
struct BackwardContext {
  BackwardContext(const PreparedBackward& prepared_backward, const AttentionTensors& tensors,
                  const AttentionGradients& run_gradients)
      : prepared(prepared_backward),
        plan(prepared.plan),
        forward(prepared.call, tensors),
        gradients(run_gradients),
        gradient_tensors(in_place_of_tensors(tensors, run_gradients)),
        gradient_layout(prepared.call.problem, gradient_tensors) {}
  BackwardContext(const BackwardContext&) = delete;
  BackwardContext& operator=(const BackwardContext&) = delete;

  const Sizes& sizes() const noexcept { return forward.sizes(); }
  const Blocking& blocking() const noexcept { return plan.call.packed; }
  const kernels::Kernels& kernels() const noexcept { return forward.kernels(); }
  const kernels::Arithmetic& arithmetic() const noexcept { return *forward.call.packed_arithmetic; }
  bool pairs() const noexcept { return blocking().vnni_factor == 2; }

  HeadQueries queries_of(HeadIndex head) const noexcept {
    const std::int64_t rows = forward.layout.q_len(head.batch) * sizes().group_size;
    return {head.batch, head.kv_head, rows, forward.layout.visibility(head.batch)};
  }
  /// The rows of K that belong to a sequence, beyond its keys too.
  std::int64_t kv_rows(std::int64_t batch) const noexcept {
    const bool ragged = !forward.tensors.ragged.kv_offsets.absent();
    return ragged ? forward.layout.kv_len(batch) : sizes().kv_len;
  }
  Columns columns_of_sequence(std::int64_t batch) const noexcept {
    return columns_of(forward.layout.kv_len(batch), kv_rows(batch), blocking().kv_block);
  }

  const PreparedBackward& prepared;
  const BackwardPlan& plan;
  CallContext forward;
  const AttentionGradients& gradients;
  AttentionTensors gradient_tensors;
  KvLayout gradient_layout;
};

}  // namespace attn::detail
