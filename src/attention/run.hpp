// Runs a prepared call.
#pragma once

#include <attn/attention.hpp>

#include <memory>

#include "attention/plan.hpp"
#include "attention/problem.hpp"
#include "attention/schedule.hpp"
#include "attention/workspace.hpp"
#include "kernels/kernels.hpp"
#include "onednn/matmul.hpp"

namespace attn::detail {

/// All that does not change from run to run.
struct PreparedCall {
  Problem problem;
  AttentionOptions options;
  Isa isa = Isa::baseline;
  const kernels::Kernels* kernels = nullptr;
  const kernels::Arithmetic* arithmetic = nullptr;  // one of theirs
  bool widens = false;  // 16-bit operands become f32 before they are multiplied
  bool ragged = false;  // lengths of queries or keys are known at run time only
  DType kv_type = DType::f32;
  int num_threads = 1;
  Blocking blocking;        // of heads whose K and V are packed
  Blocking short_blocking;  // of heads of few rows, which are not
  kernels::PanelLayout key_layout;
  ScratchShape scratch;
  std::shared_ptr<const onednn::Matmul> score_matmul;  // null: the micro-kernel makes all scores

  /// A row's weights depend on all of its scores, or are made as if they did: not online.
  bool needs_full_rows() const noexcept {
    return problem.normalizer.kind() != Normalizer::Kind::softmax;
  }
};

/// The way of a batch entry's heads.
Path path_of(const PreparedCall& prepared, std::int64_t q_len) noexcept;

/// `memory` holds Scratch::size(prepared.scratch) bytes. The tensors have been validated.
void run(const PreparedCall& prepared, const AttentionTensors& tensors, void* memory);

}  // namespace attn::detail
