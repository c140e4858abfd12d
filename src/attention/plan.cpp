#include "attention/plan.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "onednn/packed_matmul.hpp"
#include "tensor/rounding.hpp"

namespace attn::detail {
namespace {

/// K and V of a block of keys (256 KiB) stay in L2 while the rows of a work item pass over them.
constexpr std::int64_t kv_block_floats = 64 * 1024;
/// Six rows of scores of a block (12 KiB at most) stay in L1.
constexpr std::int64_t max_kv_block = 512;
constexpr std::int64_t min_kv_block = 64;

/// Rows of a work item: enough to use each key in L2 many times, few enough to share out evenly.
constexpr std::int64_t preferred_q_block = 96;
constexpr std::int64_t least_q_block = 24;
/// What beginning an item costs, in rows: 36 rows at a time take 1.02 to 1.05 times as long as 96.
constexpr std::int64_t rows_of_an_item = 2;
/// A head with no more rows is not cut if there are enough heads for the threads. With a single
/// block of keys a tile is finished at once, and O does not wait in the cache for the next block.
constexpr std::int64_t uncut_rows = 192;
constexpr std::int64_t uncut_rows_of_one_block = 512;
/// Packed heads in flight may take so many bytes for each thread; three heads are always allowed.
constexpr std::int64_t most_packed_bytes = 4 * 1024 * 1024;

/// With short keys, more rows are packed: each key then is multiplied with many rows that are next
/// to it.
constexpr std::int64_t always_blockwise_rows = 32;

/// Rows and, at most, keys of oneDNN's blocks: their scores (256 KiB) are in L2. With full rows
/// there are fewer, whose scores of all keys are in L2 up to 8192 keys.
constexpr std::int64_t onednn_q_block = 128;
constexpr std::int64_t onednn_full_rows = 32;
/// oneDNN reads rows of f32 in place up to this width, and copies wider ones in each call.
constexpr std::int64_t widest_onednn_rows = 256;

constexpr std::int64_t splits_at_most = 16;
constexpr std::int64_t split_step = 128;

/// Enough keys to be worth a work item: about 20 us of reading f32 from memory.
std::int64_t least_split_keys(const Sizes& sizes) {
  constexpr std::int64_t elements = 128 * 1024;
  return round_up(divide_up(elements, sizes.head_dim + sizes.v_head_dim), split_step);
}

std::int64_t choose_kv_block(const Sizes& sizes, std::int64_t vnni_factor, std::int64_t panel_width,
                             bool fixed) {
  const std::int64_t fitting =
      round_down(kv_block_floats * vnni_factor / (sizes.head_dim + sizes.v_head_dim), min_kv_block);
  const std::int64_t preferred = std::clamp(fitting, min_kv_block, max_kv_block);
  if (fixed) return preferred;
  return std::min(preferred, round_up(std::max<std::int64_t>(sizes.kv_len, 1), panel_width));
}

/// Whether whole heads keep all threads busy: none waits for more than a tenth of the time.
bool divides_evenly(std::int64_t heads, int num_threads) {
  return heads >= 2 * num_threads && 10 * heads >= 9 * round_up(heads, num_threads);
}

/// How long the threads take for blocks of q_block rows, in rows that see the average number of
/// keys. In the end they wait for the last item: for all of it where items are few and alike, for
/// half where they have drifted apart or, under a causal mask, the last ones are the shortest.
double time_with(std::int64_t q_block, const Blocking& blocking, std::int64_t heads,
                 const Sharing& sharing) {
  const double items = static_cast<double>(divide_up(blocking.rows, q_block)) *
                       static_cast<double>(heads) / sharing.num_threads;
  const double rows_of_a_thread =
      static_cast<double>(blocking.rows) * static_cast<double>(heads) / sharing.num_threads;
  const auto rows = static_cast<double>(q_block);
  const double beginning = items * static_cast<double>(rows_of_an_item);
  if (sharing.causal) return std::max(2 * rows, rows_of_a_thread + rows / 2) + beginning;
  return std::min(std::ceil(items) * rows, rows_of_a_thread + rows) + beginning;
}

std::int64_t choose_q_block(const Blocking& blocking, std::int64_t heads, const Sharing& sharing) {
  const std::int64_t uncut = blocking.kv_blocks <= 1 ? uncut_rows_of_one_block : uncut_rows;
  if (blocking.rows <= uncut && divides_evenly(heads, sharing.num_threads)) return uncut;
  std::int64_t best = preferred_q_block;
  double least = std::numeric_limits<double>::infinity();
  for (std::int64_t q_block = preferred_q_block; q_block >= least_q_block;
       q_block -= kernels::tile_rows) {
    const double time = time_with(q_block, blocking, heads, sharing);
    if (time >= least) continue;
    least = time;
    best = q_block;
  }
  return best;
}

kernels::PanelLayout choose_key_layout(const Blocking& blocking, std::int64_t panel_width,
                                       PackedLayout layout) {
  if (layout == PackedLayout::matrix) return {blocking.kv_block, panel_width, panel_width};
  return {panel_width, blocking.key_rows * panel_width, panel_width};
}

kernels::PanelLayout choose_value_layout(const Blocking& blocking, bool in_rows) {
  const std::int64_t panel_width = blocking.value_panel_width;
  if (in_rows) return {blocking.value_width, panel_width, panel_width};
  return {panel_width, blocking.value_depth() * panel_width, panel_width};
}

/// Gives oneDNN the whole tiles of a plan whose blocks are chosen.
void plan_onednn_tiles(CallPlan& plan, bool bf16, const PlanInput& input) {
  Blocking& packed = plan.packed;
  plan.packed_layout = choose_packed_layout(input.onednn, input.widths, bf16);
  const bool matrix = plan.packed_layout == PackedLayout::matrix;
  plan.values_in_rows = matrix || (!bf16 && packed.value_width <= widest_onednn_rows);
  if (!matrix) packed.key_rows = round_up(packed.key_depth, onednn::weight_depth_step);
  if (!plan.values_in_rows) packed.value_panel_width = onednn::weight_panel_width;
  plan.onednn_rows = plan.needs_full_rows ? onednn_full_rows : packed.q_block;
}

std::int64_t heads_of(const Sizes& sizes) { return sizes.batch * sizes.num_kv_heads; }

/// The number of work items of a call whose lengths are known.
std::int64_t count_items(const CallPlan& plan) {
  const std::int64_t heads = heads_of(plan.sizes);
  switch (plan.path_of(plan.sizes.q_len)) {
    case Path::one_thread: return heads;
    case Path::cooperative:
      return saturating_product(heads, plan.packed.q_blocks + plan.packed.kv_blocks);
    case Path::unpacked:
    case Path::blockwise: return heads * most_splits(plan.sizes.kv_len, plan.sizes);
  }
  return heads;
}

/// A group has items enough for all threads to be done with it at about the same time. One group is
/// computed, one packed, and one is about to be free.
void choose_packed_slots(CallPlan& plan) {
  const std::int64_t heads = heads_of(plan.sizes);
  if (plan.path_of(plan.sizes.q_len) == Path::one_thread) {
    plan.packed_slots = std::min<std::int64_t>(plan.num_threads, heads);
    return;
  }
  const Blocking& packed = plan.packed;
  const std::int64_t floats = saturating_product(
      packed.kv_blocks, saturating_product(packed.kv_block, packed.key_rows) +
                            saturating_product(packed.value_depth(), packed.value_width));
  const std::int64_t fitting =
      most_packed_bytes * plan.num_threads / 4 / std::max<std::int64_t>(floats, 1);
  const std::int64_t wanted =
      divide_up<std::int64_t>(4 * plan.num_threads, std::max<std::int64_t>(packed.q_blocks, 1));
  plan.heads_together = std::clamp<std::int64_t>(fitting / 3, 1, wanted);
  plan.packed_slots = std::min(3 * plan.heads_together, heads);
  // The first group has to be packed before any thread can compute.
  const std::int64_t blocks =
      std::max<std::int64_t>(std::min(plan.heads_together, heads) * packed.kv_blocks, 1);
  plan.pack_pieces =
      std::clamp<std::int64_t>(plan.num_threads / blocks, 1, packed.kv_block / plan.panel_width);
}

void plan_scratch(CallPlan& plan, std::int64_t query_tokens) {
  const Sizes& sizes = plan.sizes;
  const Path longest = plan.path_of(sizes.q_len),
             shortest = plan.path_of(plan.ragged ? 1 : sizes.q_len);
  plan.some_packed = !is_split(longest);
  plan.some_unpacked = shortest == Path::unpacked;
  // Paths follow from the number of rows: few are unpacked, some blockwise, many packed.
  if (shortest == Path::blockwise || (shortest == Path::unpacked && longest != Path::unpacked))
    plan.blockwise_rows = std::min(sizes.q_len * sizes.group_size, most_blockwise_rows);
  plan.transposed_keys = round_down(plan.panel_width, kernels::tile_rows);
  if (plan.some_packed) choose_packed_slots(plan);
  const std::int64_t splits = most_splits(sizes.kv_len, sizes);
  if (!is_split(shortest) || splits <= 1) return;
  const std::int64_t rows_of_a_head =
      std::max(plan.some_unpacked ? plan.most_unpacked_rows() : 0, plan.blockwise_rows);
  const std::int64_t rows = std::min(sizes.batch * rows_of_a_head, query_tokens * sizes.group_size);
  plan.partial_rows = rows * sizes.num_kv_heads * splits;
}

}  // namespace

KernelWidths widths_of(const kernels::Kernels& kernels) noexcept {
  return {.vector_width = kernels.vector_width,
          .panel_width = kernels.panel_width,
          .multiplies_bf16 = kernels.bf16.matmul != nullptr};
}

bool takes_onednn(ScoreMatmul asked, bool bf16, const OnednnSupport& support) noexcept {
  switch (asked) {
    case ScoreMatmul::built_in: return false;
    case ScoreMatmul::onednn: return true;
    case ScoreMatmul::automatic: return support.available && support.has_amx && bf16;
  }
  return false;
}

PackedLayout choose_packed_layout(const OnednnSupport& support, const KernelWidths& widths,
                                  bool bf16) noexcept {
  const bool panels = bf16 ? support.bf16_panels : support.f32_panels;
  return panels && widths.panel_width == onednn::weight_panel_width ? PackedLayout::onednn_panels
                                                                    : PackedLayout::matrix;
}

bool has_products(const Sizes& sizes) noexcept {
  return sizes.q_len > 0 && sizes.kv_len > 0 && sizes.head_dim > 0 && sizes.v_head_dim > 0 &&
         sizes.group_size > 0;
}

Blocking choose_blocking(const Sizes& sizes, const KernelWidths& widths, std::int64_t vnni_factor,
                         const Sharing& sharing) {
  Blocking blocking;
  blocking.kv_block = choose_kv_block(sizes, vnni_factor, widths.panel_width, sharing.fixed);
  blocking.kv_blocks = divide_up(sizes.kv_len, blocking.kv_block);
  blocking.rows = sizes.q_len * sizes.group_size;
  blocking.q_block =
      sharing.fixed ? onednn_q_block
                    : std::clamp<std::int64_t>(blocking.rows, 1,
                                               choose_q_block(blocking, heads_of(sizes), sharing));
  blocking.q_blocks = divide_up(blocking.rows, blocking.q_block);
  blocking.vnni_factor = vnni_factor;
  blocking.key_depth = blocking.key_rows = divide_up(sizes.head_dim, vnni_factor);
  blocking.value_width = round_up(sizes.v_head_dim, widths.vector_width);
  blocking.value_panels = divide_up(sizes.v_head_dim, widths.panel_width);
  // Panels are as even as whole vectors allow: 80 dims as 48 + 32 keep more accumulators busy than
  // 64 + 16.
  blocking.value_panel_width =
      round_up(divide_up(sizes.v_head_dim, blocking.value_panels), widths.vector_width);
  return blocking;
}

Blocking choose_unpacked_blocking(const Sizes& sizes, const KernelWidths& widths,
                                  std::int64_t most_rows) {
  // K and V of a block, 128 KiB of f32 at dims of 128, come to the cache once and are used there.
  constexpr std::int64_t keys = 128;
  Blocking blocking;
  blocking.rows = std::min(sizes.q_len * sizes.group_size, most_rows);
  blocking.q_block = blocking.rows;
  blocking.q_blocks = 1;
  blocking.kv_block = keys;
  blocking.kv_blocks = divide_up(sizes.kv_len, keys);
  blocking.key_depth = round_up(sizes.head_dim, widths.vector_width);
  blocking.value_width = round_up(sizes.v_head_dim, widths.vector_width);
  return blocking;
}

std::int64_t most_unpacked_rows(DType kv_type, bool multiplies_bf16) {
  // Measured. Elements that have to be widened are widened once for all rows by packing, in a pass
  // of their own, and once for six rows by the dot products.
  if (multiplies_bf16) return kv_type == DType::i8 ? 16 : 12;
  return kv_type == DType::f32 ? 24 : 48;
}

Splits choose_splits(std::int64_t visible_keys, const Sizes& sizes) {
  const std::int64_t even = round_up(divide_up(visible_keys, splits_at_most), split_step);
  const std::int64_t keys = std::max(least_split_keys(sizes), even);
  return {std::max<std::int64_t>(divide_up(visible_keys, keys), 1), keys};
}

std::int64_t most_splits(std::int64_t keys, const Sizes& sizes) {
  return std::clamp<std::int64_t>(divide_up(keys, least_split_keys(sizes)), 1, splits_at_most);
}

int useful_threads(const Sizes& sizes, int num_threads) {
  // In cycles: 16 multiply-adds each, and one for every element of K and V that is packed.
  constexpr double multiply_adds_per_cycle = 16;
  // About 8 us, more than what waking and joining a thread takes.
  constexpr double cycles_per_thread = 30'000;
  const double elements = static_cast<double>(heads_of(sizes)) * static_cast<double>(sizes.kv_len) *
                          static_cast<double>(sizes.head_dim + sizes.v_head_dim);
  const double cycles =
      elements *
      (static_cast<double>(sizes.group_size * sizes.q_len) / multiply_adds_per_cycle + 1);
  return static_cast<int>(
      std::clamp(cycles / cycles_per_thread, 1.0, static_cast<double>(num_threads)));
}

std::int64_t CallPlan::onednn_keys(std::int64_t keys) const noexcept {
  // Panels of V are as deep as the block, and oneDNN takes several of them as they lie.
  const bool any_number = values_in_rows || sizes.v_head_dim <= packed.value_panel_width;
  return any_number ? round_up(keys, onednn_key_step) : packed.kv_block;
}

Path CallPlan::path_of(std::int64_t q_len) const noexcept {
  const std::int64_t rows = q_len * sizes.group_size;
  if (!packs_all) {
    if (rows <= most_unpacked_rows()) return Path::unpacked;
    // Where keys are not split, the bits are those of packed keys: the longest sequence may decide.
    const bool many_keys = sizes.kv_len > least_split_keys(sizes);
    if (rows <= (many_keys ? most_blockwise_rows : always_blockwise_rows)) return Path::blockwise;
  }
  return packed.q_blocks == 1 && !ragged ? Path::one_thread : Path::cooperative;
}

CallPlan make_plan(const PlanInput& input) {
  CallPlan plan{.sizes = input.sizes,
                .kv_type = input.kv_type,
                .ragged = input.ragged,
                .needs_full_rows = input.needs_full_rows,
                .packs_all = input.needs_full_rows || input.score_matmul == ScoreMatmul::onednn,
                .num_threads = useful_threads(input.sizes, input.max_threads),
                .panel_width = input.widths.panel_width};
  // Operands are multiplied as bf16 if all of them are exact in it and the instruction set can.
  // Only the online softmax produces probabilities in bf16.
  const bool can_pair =
      input.q_type == DType::bf16 && input.widths.multiplies_bf16 && !input.needs_full_rows;
  const bool all_bf16 = can_pair && input.kv_type == DType::bf16;
  const bool onednn =
      takes_onednn(input.score_matmul, all_bf16, input.onednn) && has_products(input.sizes);
  const bool bf16 =
      all_bf16 && (!onednn || choose_packed_layout(input.onednn, input.widths, true) ==
                                  PackedLayout::onednn_panels);
  const bool pairs = bf16 || (can_pair && input.kv_type == DType::i8 && !onednn);
  plan.packed = choose_blocking(input.sizes, input.widths, pairs ? 2 : 1,
                                {plan.num_threads, input.causal, onednn});
  if (onednn) plan_onednn_tiles(plan, bf16, input);
  plan.unpacked = choose_unpacked_blocking(input.sizes, input.widths, plan.most_unpacked_rows());
  plan.key_layout = choose_key_layout(plan.packed, input.widths.panel_width, plan.packed_layout);
  plan.value_layout = choose_value_layout(plan.packed, plan.values_in_rows);
  // More threads than work items would only take memory.
  if (!plan.ragged) {
    plan.num_threads =
        static_cast<int>(std::clamp<std::int64_t>(count_items(plan), 1, plan.num_threads));
  }
  plan_scratch(plan, input.query_tokens);
  plan.scanned_rows = plan.some_packed ? input.scanned_rows : 0;
  return plan;
}

SequenceWork plan_sequence(const CallPlan& plan, std::int64_t batch, std::int64_t q_len,
                           std::int64_t kv_len, std::int64_t visible_keys) {
  const std::int64_t rows = q_len * plan.sizes.group_size;
  SequenceWork work{.batch = batch,
                    .path = plan.path_of(q_len),
                    .pack_items = 0,
                    .compute_items = rows > 0 ? 1 : 0,
                    .partial_rows = 0,
                    .cost = static_cast<double>(q_len) * static_cast<double>(kv_len)};
  if (rows == 0) return work;
  switch (work.path) {
    case Path::one_thread: break;
    case Path::cooperative:
      work.pack_items = divide_up(kv_len, plan.packed.kv_block) * plan.pack_pieces;
      work.compute_items = divide_up(rows, plan.packed.q_block);
      break;
    case Path::unpacked:
    case Path::blockwise:
      work.compute_items = choose_splits(visible_keys, plan.sizes).count;
      work.partial_rows = work.compute_items > 1 ? work.compute_items * rows : 0;
      break;
  }
  return work;
}

}  // namespace attn::detail
