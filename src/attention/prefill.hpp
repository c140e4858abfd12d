// Runs a prepared call: the tiled pass.
#pragma once

#include <attn/attention.hpp>

#include <memory>

#include "attention/plan.hpp"
#include "attention/problem.hpp"
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
  int num_threads = 1;
  Blocking blocking;
  WorkList work;
  kernels::PanelLayout key_layout;
  ScratchShape scratch;
  std::shared_ptr<const onednn::Matmul> score_matmul;  // null: the micro-kernel makes all scores
};

/// `memory` holds Scratch::size(prepared.scratch) bytes. The tensors have been validated.
void run_prefill(const PreparedCall& prepared, const Tensors& tensors, void* memory);

}  // namespace attn
