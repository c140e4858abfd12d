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

namespace attn {

/// All that does not change from run to run.
struct PreparedCall {
  Problem problem;
  Options options;
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
  bool whole_rows() const noexcept {
    return problem.normaliser.kind() != Normaliser::Kind::softmax;
  }
};

/// The way of a batch entry's heads.
Way way_of(const PreparedCall& prepared, std::int64_t q_len) noexcept;

/// `memory` holds Scratch::size(prepared.scratch) bytes. The tensors have been validated.
void run(const PreparedCall& prepared, const Tensors& tensors, void* memory);

}  // namespace attn
