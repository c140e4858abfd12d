// The story of a backward call:
//
//   validate    the checks of its forward, and of its gradients              validate.cpp
//   plan        cuts rows and keys into blocks, and threads' work into items plan.cpp
//   workspace   memory for the scratch                                       workspace.cpp
//   run         threads take items and run the steps on them                 run.cpp
//     rows      prepare rows of Q and dout; in the end add up dQ             rows.cpp
//     column    one block of keys against all rows that see it               column.cpp
//     sums      dmask, dalibi and dsinks                                     score_sums.cpp
#include <attn/attention_backward.hpp>
#include <attn/error.hpp>

#include <fmt/format.h>

#include <limits>

#include "attention/call_tensors.hpp"
#include "attention/describe.hpp"
#include "attention/whole_tiles.hpp"
#include "backward/context.hpp"
#include "backward/run.hpp"
#include "backward/validate.hpp"
#include "backward/workspace.hpp"
#include "kernels/select.hpp"
#include "tensor/checks.hpp"
#include "threads/parallel.hpp"

namespace attn::detail {
namespace {

BackwardPlanInput plan_input(const PreparedCall& call, const AttentionTensors& tensors,
                             const AttentionGradients& gradients, const Execution& execution) {
  const Sizes& sizes = call.problem.sizes;
  const bool ragged_queries = !tensors.ragged.q_offsets.absent();
  const bool all_bf16 = tensors.q.dtype == DType::bf16 && tensors.k.dtype == DType::bf16 &&
                        gradients.dout.dtype == DType::bf16;
  const KernelWidths widths = widths_of(*call.kernels);
  const MaskSums dmask = mask_sums(gradients.dmask, tensors, call.problem);
  return {.sizes = sizes,
          .query_tokens = ragged_queries ? tensors.q.shape[0] : sizes.batch * sizes.q_len,
          .multiplies_bf16 = all_bf16 && widths.multiplies_bf16,
          .score_matmul = call.options.score_matmul,
          .onednn = onednn_support(call.options.score_matmul),
          .ragged = ragged_queries || !tensors.ragged.kv_offsets.absent(),
          .extras = {.mask_sums = dmask,
                     .dalibi = !gradients.dalibi.absent(),
                     .dsinks = !gradients.dsinks.absent(),
                     .softcap = call.problem.softcap.has_value(),
                     .score_mod = static_cast<bool>(call.options.score_mod),
                     .full_rows = call.problem.normalizer.kind() == Normalizer::Kind::entmax,
                     .heads_share_mask =
                         dmask == MaskSums::elements && heads_share_mask(gradients.dmask, sizes)},
          .scanned_rows = scanned_rows(tensors, call.options),
          .max_threads = resolved_num_threads(execution.num_threads),
          .widths = widths};
}

/// Sizes of each tensor fit; their products may not.
void require_workspace_fits(const BackwardPlan& plan, const AttentionTensors& tensors) {
  const Sizes& sizes = plan.call.sizes;
  const bool column_sums_fit = plan.extras.mask_sums != MaskSums::columns ||
                               fits({sizes.batch * sizes.num_q_heads, sizes.kv_len});
  if (column_sums_fit && BackwardScratch::size(plan) < std::numeric_limits<std::size_t>::max())
    return;
  reject(fmt::format("q has shape {}, k {} and v {}: the workspace of {} threads overflows 64 bits",
                     tensors.q.shape.to_string(), tensors.k.shape.to_string(),
                     tensors.v.shape.to_string(), plan.call.num_threads));
}

/// A product of all rows of a block, `stride` packed elements apart, with all keys of a column.
std::shared_ptr<const onednn::Matmul> block_matmul(const BackwardPlan& plan, std::int64_t stride) {
  const Blocking& blocking = plan.call.packed;
  return onednn::Matmul::shared(
      {.m = blocking.q_block,
       .n = blocking.kv_block,
       .k = stride * blocking.vnni_factor,
       .b_in_panels = plan.call.packed_layout == PackedLayout::onednn_panels,
       .operands = blocking.vnni_factor == 2 ? DType::bf16 : DType::f32});
}

PreparedBackward prepare(const AttentionTensors& tensors, const AttentionGradients& gradients,
                         const AttentionOptions& options, const Execution& execution) {
  PreparedBackward prepared{
      .call = {.problem = validate_backward(tensors, gradients, options, execution,
                                            ForwardResults::needed),
               .options = options},
      .plan = {}};
  PreparedCall& call = prepared.call;
  call.isa = execution.isa.value_or(default_isa());
  call.executor = execution.executor;
  call.kernels = &kernels::kernels_for(call.isa);
  prepared.plan = make_backward_plan(plan_input(call, tensors, gradients, execution));
  require_workspace_fits(prepared.plan, tensors);
  call.plan = prepared.plan.call;
  const bool bf16 = call.plan.packed.vnni_factor == 2;
  call.packed_arithmetic = bf16 ? &call.kernels->bf16 : &call.kernels->f32;
  if (call.plan.onednn_rows > 0) {
    prepared.scores_matmul = block_matmul(prepared.plan, prepared.plan.query_stride);
    prepared.gradients_matmul = block_matmul(prepared.plan, prepared.plan.dout_stride);
  }
  return prepared;
}

}  // namespace
}  // namespace attn::detail

namespace attn {

struct AttentionBackwardPlan::Prepared {
  detail::PreparedBackward call;
  AttentionTensors tensors;  // their data does not count
  AttentionGradients gradients;
};

AttentionBackwardPlan::AttentionBackwardPlan(const AttentionTensors& tensors,
                                             const AttentionGradients& gradients,
                                             const AttentionOptions& options,
                                             const Execution& execution)
    : prepared_(std::make_shared<const Prepared>(
          Prepared{detail::prepare(tensors, gradients, options, execution), tensors, gradients})) {}

std::size_t AttentionBackwardPlan::workspace_size() const {
  return detail::BackwardScratch::size(detail::not_moved_from("plan", prepared_).call.plan);
}
int AttentionBackwardPlan::num_threads() const {
  return detail::not_moved_from("plan", prepared_).call.plan.call.num_threads;
}
Isa AttentionBackwardPlan::isa() const {
  return detail::not_moved_from("plan", prepared_).call.call.isa;
}
std::string AttentionBackwardPlan::description() const {
  const detail::PreparedBackward& call = detail::not_moved_from("plan", prepared_).call;
  const detail::CallPlan& plan = call.plan.call;
  const std::string whole_tiles =
      call.scores_matmul == nullptr
          ? ""
          : fmt::format(", whole tiles of Q K^T and dout V^T by oneDNN {}",
                        call.scores_matmul->implementation());
  return fmt::format(
      "tiled, {} kernels, {} multiplied{}, columns of {} keys, blocks of {} rows, {} copies of dQ, "
      "{}",
      name_of(call.call.isa), plan.packed.vnni_factor == 2 ? "bf16" : "f32", whole_tiles,
      plan.packed.kv_block, plan.packed.q_block, call.plan.copies,
      detail::describe_threads(plan.num_threads));
}

void AttentionBackwardPlan::run(const AttentionTensors& tensors,
                                const AttentionGradients& gradients, Workspace& workspace) const {
  const Prepared& planned = detail::not_moved_from("plan", prepared_);
  detail::for_each_tensor(detail::RequireAsPlanned{}, planned.tensors, tensors);
  detail::for_each_gradient(detail::RequireAsPlanned{}, planned.gradients, gradients);
  detail::validate_backward_data(planned.call.call.problem, tensors, gradients);
  if (workspace.size() < workspace_size()) {
    throw Error(ErrorCode::invalid_argument,
                fmt::format("workspace has {} bytes; the plan needs {}", workspace.size(),
                            workspace_size()));
  }
  detail::run_backward(planned.call, tensors, gradients, workspace.data());
}

void attention_backward(const AttentionTensors& tensors, const AttentionGradients& gradients,
                        const AttentionOptions& options, const Execution& execution) {
  const AttentionBackwardPlan plan(detail::with_longest_sequences(tensors), gradients, options,
                                   execution);
  Workspace workspace(plan.workspace_size());
  plan.run(tensors, gradients, workspace);
}

}  // namespace attn
