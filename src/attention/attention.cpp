// A call's way: validate (validate.cpp) -> plan (here and plan.cpp) -> run (run.cpp).
#include <attn/attention.hpp>
#include <attn/error.hpp>

#include <fmt/format.h>

#include <algorithm>

#include "attention/pack.hpp"
#include "attention/problem.hpp"
#include "attention/run.hpp"
#include "kernels/select.hpp"
#include "threads/parallel.hpp"

namespace attn {
using namespace detail;
namespace {

/// A primitive for whole tiles of scores, or null if the micro-kernel is to make them: always for
/// ragged batches, where the longest sequence decides what a tile is, and so would decide the bits
/// of the others; and for whole rows of scores, which take fewer.
std::shared_ptr<const onednn::Matmul> choose_score_matmul(const PreparedCall& prepared,
                                                          const Blocking& tiles) {
  if (prepared.ragged || prepared.needs_full_rows() ||
      prepared.options.score_matmul != ScoreMatmul::onednn)
    return nullptr;
  if (tiles.rows == 0 || tiles.kv_blocks == 0) return nullptr;
  return onednn::Matmul::shared(
      {.m = tiles.q_block, .n = tiles.kv_block, .k = prepared.problem.sizes.head_dim});
}

/// bf16 pairs if all operands are bf16 and the instruction set multiplies them; anything else is
/// widened to f32. Only the online softmax makes weights in bf16.
const kernels::Arithmetic& choose_arithmetic(const PreparedCall& prepared,
                                             const AttentionTensors& tensors) {
  const kernels::Kernels& kernels = *prepared.kernels;
  const bool all_bf16 = tensors.q.dtype == DType::bf16 && tensors.k.dtype == DType::bf16 &&
                        kernels.bf16.matmul != nullptr;
  const bool bf16 = all_bf16 && !prepared.needs_full_rows() &&
                    prepared.options.score_matmul != ScoreMatmul::onednn;
  return bf16 ? kernels.bf16 : kernels.f32;
}

/// Items of the call's schedule, if its lengths are known.
std::int64_t most_items(const PreparedCall& prepared) {
  const Sizes& sizes = prepared.problem.sizes;
  const std::int64_t heads = sizes.batch * sizes.num_kv_heads;
  switch (path_of(prepared, sizes.q_len)) {
    case Path::one_thread: return heads;
    case Path::cooperative:
      return heads * (prepared.blocking.q_blocks + prepared.blocking.kv_blocks);
    case Path::unpacked: return heads * most_splits(sizes.kv_len, sizes);
  }
  return heads;
}

/// Heads whose packed keys and values exist at the same time.
std::int64_t packed_slots(const PreparedCall& prepared) {
  const std::int64_t heads = prepared.problem.sizes.batch * prepared.problem.sizes.num_kv_heads;
  constexpr std::int64_t in_flight = 3;  // one being computed, one packed, one about to be free
  const bool whole = path_of(prepared, prepared.problem.sizes.q_len) == Path::one_thread;
  return std::min<std::int64_t>(whole ? prepared.num_threads : in_flight, heads);
}

ScratchShape scratch_shape(const PreparedCall& prepared, std::int64_t query_tokens) {
  const Sizes& sizes = prepared.problem.sizes;
  ScratchShape shape{.sizes = sizes,
                     .blocking = prepared.blocking,
                     .short_blocking = prepared.short_blocking,
                     .panel_width = prepared.kernels->panel_width,
                     .num_threads = prepared.num_threads,
                     .score_tiles = prepared.score_matmul != nullptr,
                     .needs_full_rows = prepared.needs_full_rows()};
  shape.packs = path_of(prepared, sizes.q_len) != Path::unpacked;
  shape.in_place = path_of(prepared, prepared.ragged ? 1 : sizes.q_len) == Path::unpacked;
  shape.slots = shape.packs ? packed_slots(prepared) : 0;
  const std::int64_t splits = most_splits(sizes.kv_len, sizes);
  if (shape.in_place && splits > 1) {
    shape.partial_rows =
        std::min(sizes.batch * most_short_rows(prepared.kv_type), query_tokens * sizes.group_size) *
        sizes.num_kv_heads * splits;
  }
  return shape;
}

PreparedCall prepare(const AttentionTensors& tensors, const AttentionOptions& options,
                     const Execution& execution) {
  PreparedCall prepared;
  prepared.problem = validate(tensors, options, execution);
  prepared.options = options;
  prepared.isa = execution.isa.value_or(default_isa());
  prepared.kernels = &kernels::kernels_for(prepared.isa);
  const Sizes& sizes = prepared.problem.sizes;
  prepared.ragged = !tensors.ragged.q_offsets.absent() || !tensors.ragged.kv_offsets.absent();
  prepared.kv_type = tensors.k.dtype;
  prepared.num_threads =
      useful_threads(sizes, execution.num_threads.value_or(default_num_threads()));
  const kernels::Kernels& kernels = *prepared.kernels;
  prepared.arithmetic = &choose_arithmetic(prepared, tensors);
  const std::int64_t vnni_factor = prepared.arithmetic->vnni_factor;
  prepared.widens =
      vnni_factor == 1 && (tensors.q.dtype != DType::f32 || tensors.k.dtype != DType::f32);
  prepared.score_matmul = choose_score_matmul(
      prepared, choose_blocking(sizes, kernels, vnni_factor, prepared.num_threads, true));
  const bool matmul_tiles = prepared.score_matmul != nullptr;
  prepared.blocking =
      choose_blocking(sizes, kernels, vnni_factor, prepared.num_threads, matmul_tiles);
  prepared.short_blocking = choose_short_blocking(sizes, kernels, prepared.kv_type);
  prepared.key_layout = key_layout(prepared.blocking, kernels.panel_width, matmul_tiles);
  // No more threads than items either: they would only take memory.
  if (!prepared.ragged) {
    prepared.num_threads =
        static_cast<int>(std::clamp<std::int64_t>(most_items(prepared), 1, prepared.num_threads));
  }
  const bool ragged_queries = !tensors.ragged.q_offsets.absent();
  prepared.scratch =
      scratch_shape(prepared, ragged_queries ? tensors.q.shape[0] : sizes.batch * sizes.q_len);
  return prepared;
}

/// Calls f(name, a's, b's) for every tensor of a call.
template <class F>
void for_each_tensor(const AttentionTensors& a, const AttentionTensors& b, F f) {
  f("q", a.q, b.q);
  f("k", a.k, b.k);
  f("v", a.v, b.v);
  f("out", a.out, b.out);
  f("mask", a.mask, b.mask);
  f("alibi_slopes", a.alibi_slopes, b.alibi_slopes);
  f("sinks", a.sinks, b.sinks);
  f("kv_lens", a.kv_lens, b.kv_lens);
  f("lse", a.lse, b.lse);
  f("q_offsets", a.ragged.q_offsets, b.ragged.q_offsets);
  f("kv_offsets", a.ragged.kv_offsets, b.ragged.kv_offsets);
  f("page_table", a.storage.page_table(), b.storage.page_table());
  f("starts", a.storage.starts(), b.storage.starts());
  f("k_scales", a.storage.k_scales, b.storage.k_scales);
  f("v_scales", a.storage.v_scales, b.storage.v_scales);
}

std::string describe(const TensorView& view) {
  return view.absent() ? "no tensor"
                       : fmt::format("{} {}", name_of(view.dtype), view.shape.to_string());
}

void require_as_planned(const AttentionTensors& planned, const AttentionTensors& given) {
  for_each_tensor(planned, given, [](const char* name, const auto& wanted, const auto& got) {
    if (wanted.dtype == got.dtype && wanted.shape == got.shape) return;
    throw Error(ErrorCode::invalid_argument, fmt::format("{} is {}; the plan was made for {}", name,
                                                         describe(got), describe(wanted)));
  });
}

}  // namespace

struct AttentionPlan::Prepared {
  PreparedCall call;
  AttentionTensors tensors;  // their data does not count
};

AttentionPlan::AttentionPlan(const AttentionTensors& tensors, const AttentionOptions& options,
                             const Execution& execution) {
  prepared_ =
      std::make_shared<const Prepared>(Prepared{prepare(tensors, options, execution), tensors});
}

std::size_t AttentionPlan::workspace_size() const noexcept {
  return Scratch::size(prepared_->call.scratch);
}
int AttentionPlan::num_threads() const noexcept { return prepared_->call.num_threads; }
Isa AttentionPlan::isa() const noexcept { return prepared_->call.isa; }

std::string AttentionPlan::description() const {
  const PreparedCall& call = prepared_->call;
  const bool short_rows = path_of(call, call.problem.sizes.q_len) == Path::unpacked;
  const std::string start = fmt::format("tiled, {} kernels, ", name_of(call.isa));
  const bool widens = call.widens || (short_rows && size_of(call.kv_type) < sizeof(float));
  const std::string widened =
      widens ? fmt::format(" ({}-bit operands widened)", 8 * size_of(call.kv_type)) : "";
  if (short_rows) {
    return fmt::format("{}f32 multiplied{}, keys and values read in place, {} threads", start,
                       widened, call.num_threads);
  }
  const std::string weights =
      call.needs_full_rows() ? ", weights of whole rows by " + call.problem.normalizer.to_string()
                             : "";
  return fmt::format("{}{} multiplied{}, scores by {}{}, blocks of {} rows x {} keys, {} threads",
                     start, call.blocking.vnni_factor == 2 ? "bf16" : "f32", widened,
                     call.score_matmul ? "oneDNN " + call.score_matmul->implementation()
                                       : std::string("the built-in micro-kernel"),
                     weights, call.blocking.q_block, call.blocking.kv_block, call.num_threads);
}

void AttentionPlan::run(const AttentionTensors& tensors, Workspace& workspace) const {
  require_as_planned(prepared_->tensors, tensors);
  validate_data(prepared_->call.problem, tensors);
  if (workspace.size() < workspace_size()) {
    throw Error(ErrorCode::invalid_argument,
                fmt::format("workspace has {} bytes; the plan needs {}", workspace.size(),
                            workspace_size()));
  }
  detail::run(prepared_->call, tensors, workspace.data());
}

void attention(const AttentionTensors& tensors, const AttentionOptions& options,
               const Execution& execution) {
  const AttentionPlan plan(with_longest_sequences(tensors), options, execution);
  Workspace workspace(plan.workspace_size());
  plan.run(tensors, workspace);
}

void attention(const TensorView& q, const TensorView& k, const TensorView& v,
               const MutableTensorView& out, const AttentionOptions& options,
               const Execution& execution) {
  attention({.q = q, .k = k, .v = v, .out = out}, options, execution);
}

}  // namespace attn
