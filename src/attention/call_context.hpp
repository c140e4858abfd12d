// What the passes of a call share. A pass holds one CallContext and the scratch memory of its
// thread.
#pragma once

#include <attn/attention.hpp>

#include <memory>

#include "attention/kv_layout.hpp"
#include "attention/plan.hpp"
#include "attention/problem.hpp"
#include "attention/scores.hpp"
#include "kernels/kernels.hpp"
#include "threads/team_size.hpp"

namespace attn::detail {

class TileMatmuls;

/// A call that was validated and planned. It does not change from run to run.
struct PreparedCall {
  Problem problem;
  AttentionOptions options;
  Isa isa = Isa::baseline;
  CallPlan plan{};
  Executor* executor = nullptr;  // null: the default
  const kernels::Kernels* kernels = nullptr;
  const kernels::Arithmetic* packed_arithmetic = nullptr;          // of packed K and V
  const kernels::StoredArithmetic* unpacked_arithmetic = nullptr;  // of K and V read in place
  bool pairs_of_queries = false;  // with K read in place, queries are multiplied as bf16 pairs
  std::shared_ptr<TileMatmuls> tile_matmuls{};  // oneDNN's; null unless plan.onednn_rows > 0

  Threads threads() const noexcept { return {plan.num_threads, executor}; }
};

/// One run of a prepared call.
struct CallContext {
  CallContext(const PreparedCall& prepared, const AttentionTensors& run_tensors)
      : call(prepared),
        tensors(run_tensors),
        layout(prepared.problem, run_tensors),
        scores(prepared.problem, run_tensors, prepared.options, *prepared.kernels) {}
  CallContext(const CallContext&) = delete;
  CallContext& operator=(const CallContext&) = delete;

  const Sizes& sizes() const noexcept { return call.problem.sizes; }
  const CallPlan& plan() const noexcept { return call.plan; }
  const kernels::Kernels& kernels() const noexcept { return *call.kernels; }

  const PreparedCall& call;
  const AttentionTensors& tensors;
  KvLayout layout;
  RowScores scores;
};

}  // namespace attn::detail
