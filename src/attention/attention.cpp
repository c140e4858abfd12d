// The story of a call:
//
//   validate    checks shapes, types and options; nobody checks them again   validate.cpp
//   plan        decides path, blocks, splits, threads, scratch sizes         plan.cpp
//   workspace   memory for the scratch                                       workspace.cpp
//   run         threads take work items and run the passes on them           run.cpp
#include <attn/attention.hpp>
#include <attn/error.hpp>

#include <fmt/format.h>

#include <cstddef>
#include <limits>

#include "attention/call_context.hpp"
#include "attention/call_tensors.hpp"
#include "attention/describe.hpp"
#include "attention/prepare.hpp"
#include "attention/run.hpp"
#include "attention/whole_tiles.hpp"
#include "attention/workspace.hpp"
#include "kernels/select.hpp"
#include "tensor/checks.hpp"
#include "threads/parallel.hpp"

namespace attn::detail {
namespace {

PlanInput plan_input(const PreparedCall& call, const AttentionTensors& tensors,
                     const Execution& execution) {
  const Sizes& sizes = call.problem.sizes;
  const bool ragged_queries = !tensors.ragged.q_offsets.absent();
  return {.sizes = sizes,
          .query_tokens = ragged_queries ? tensors.q.shape[0] : sizes.batch * sizes.q_len,
          .q_type = tensors.q.dtype,
          .kv_type = tensors.k.dtype,
          .ragged = ragged_queries || !tensors.ragged.kv_offsets.absent(),
          .needs_full_rows = call.problem.normalizer.kind() != Normalizer::Kind::softmax,
          .score_matmul = call.options.score_matmul,
          .onednn = onednn_support(call.options.score_matmul),
          .causal = call.options.causal.has_value(),
          .scanned_rows = scanned_rows(tensors, call.options),
          .max_threads = resolved_num_threads(execution.num_threads),
          .widths = widths_of(*call.kernels)};
}

const kernels::StoredArithmetic& stored_arithmetic(const kernels::Kernels& kernels, DType dtype) {
  switch (dtype) {
    case DType::bf16: return kernels.stored_bf16;
    case DType::f16: return kernels.stored_f16;
    case DType::i8: return kernels.stored_i8;
    default: return kernels.stored_f32;
  }
}

/// Sizes of each tensor fit by validate(); their products in the workspace may not.
void require_workspace_fits(const CallPlan& plan, const AttentionTensors& tensors) {
  if (Scratch::size(plan) < std::numeric_limits<std::size_t>::max()) return;
  reject(fmt::format("q has shape {}, k {} and v {}: the workspace of {} threads overflows 64 bits",
                     tensors.q.shape.to_string(), tensors.k.shape.to_string(),
                     tensors.v.shape.to_string(), plan.num_threads));
}

}  // namespace

PreparedCall prepare(const AttentionTensors& tensors, const AttentionOptions& options,
                     const Execution& execution) {
  PreparedCall call{.problem = validate(tensors, options, execution), .options = options};
  call.isa = execution.isa.value_or(default_isa());
  call.executor = execution.executor;
  call.kernels = &kernels::kernels_for(call.isa);
  call.plan = make_plan(plan_input(call, tensors, execution));
  require_workspace_fits(call.plan, tensors);
  const bool pairs = call.plan.packed.vnni_factor == 2;
  call.packed_arithmetic = !pairs               ? &call.kernels->f32
                           : call.plan.scaled() ? &call.kernels->i8
                                                : &call.kernels->bf16;
  call.unpacked_arithmetic = &stored_arithmetic(*call.kernels, tensors.k.dtype);
  call.pairs_of_queries = tensors.q.dtype == DType::bf16 &&
                          call.unpacked_arithmetic->scores_with_bf16_queries != nullptr;
  if (call.plan.onednn_rows > 0) call.tile_matmuls = std::make_shared<TileMatmuls>(call.plan);
  return call;
}

}  // namespace attn::detail

namespace attn {

struct AttentionPlan::Prepared {
  detail::PreparedCall call;
  AttentionTensors tensors;  // their data does not count
};

AttentionPlan::AttentionPlan(const AttentionTensors& tensors, const AttentionOptions& options,
                             const Execution& execution)
    : prepared_(std::make_shared<const Prepared>(
          Prepared{detail::prepare(tensors, options, execution), tensors})) {}

std::size_t AttentionPlan::workspace_size() const {
  return detail::Scratch::size(detail::not_moved_from("plan", prepared_).call.plan);
}
int AttentionPlan::num_threads() const {
  return detail::not_moved_from("plan", prepared_).call.plan.num_threads;
}
Isa AttentionPlan::isa() const { return detail::not_moved_from("plan", prepared_).call.isa; }
std::string AttentionPlan::description() const {
  const Prepared& planned = detail::not_moved_from("plan", prepared_);
  return detail::describe(planned.call, planned.tensors);
}

void AttentionPlan::run(const AttentionTensors& tensors, Workspace& workspace) const {
  const Prepared& planned = detail::not_moved_from("plan", prepared_);
  detail::for_each_tensor(detail::RequireAsPlanned{}, planned.tensors, tensors);
  detail::validate_data(planned.call.problem, tensors);
  if (workspace.size() < workspace_size()) {
    throw Error(ErrorCode::invalid_argument,
                fmt::format("workspace has {} bytes; the plan needs {}", workspace.size(),
                            workspace_size()));
  }
  detail::run(planned.call, tensors, workspace.data());
}

void attention(const AttentionTensors& tensors, const AttentionOptions& options,
               const Execution& execution) {
  const AttentionPlan plan(detail::with_longest_sequences(tensors), options, execution);
  Workspace workspace(plan.workspace_size());
  plan.run(tensors, workspace);
}

void attention(const TensorView& q, const TensorView& k, const TensorView& v,
               const MutableTensorView& out, const AttentionOptions& options,
               const Execution& execution) {
  attention({.q = q, .k = k, .v = v, .out = out}, options, execution);
}

}  // namespace attn
