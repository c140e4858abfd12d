// How a call is planned: blocking, path, splits, scratch. Integers in, integers out, no tensors.
#include <attn/isa.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "attention/plan.hpp"
#include "kernels/select.hpp"

using namespace attn;
using namespace attn::detail;

namespace {

template <class F>
void for_each_sizes(F&& f) {
  for (const std::int64_t q_len : {0, 1, 5, 24, 97, 513, 5000}) {
    for (const std::int64_t kv_len : {0, 1, 63, 64, 65, 511, 5000}) {
      for (const std::int64_t group_size : {1, 3, 8}) {
        for (const std::int64_t head_dim : {1, 64, 80, 256, 4096}) {
          f(Sizes{.batch = 2,
                  .num_q_heads = 2 * group_size,
                  .num_kv_heads = 2,
                  .group_size = group_size,
                  .q_len = q_len,
                  .kv_len = kv_len,
                  .head_dim = head_dim,
                  .v_head_dim = head_dim});
        }
      }
    }
  }
}

std::string name_of_sizes(const Sizes& sizes) {
  return fmt::format("group_size {} q_len {} kv_len {} head_dim {}", sizes.group_size, sizes.q_len,
                     sizes.kv_len, sizes.head_dim);
}

struct Operands {
  std::int64_t vnni_factor;
  bool fixed;
};

}  // namespace

TEST_CASE("Blocks cover all rows and keys") {
  for (const Isa isa : available_isas()) {
    const KernelWidths widths = widths_of(kernels::kernels_for(isa));
    for_each_sizes([&](const Sizes& sizes) {
      for (const int num_threads : {1, 2, 64}) {
        for (const Operands operands :
             {Operands{1, false}, Operands{1, true}, Operands{2, false}}) {
          const std::int64_t vnni_factor = operands.vnni_factor;
          INFO(name_of_sizes(sizes), ", threads ", num_threads, ", vnni factor ", vnni_factor);
          const Blocking blocking = choose_blocking(
              sizes, widths, vnni_factor, {num_threads, sizes.q_len % 2 == 1, operands.fixed});
          CHECK(blocking.rows == sizes.q_len * sizes.group_size);
          CHECK(blocking.q_block >= 1);
          CHECK(blocking.q_blocks == (blocking.rows + blocking.q_block - 1) / blocking.q_block);
          CHECK(blocking.kv_block >= 1);
          CHECK(blocking.kv_block % widths.panel_width == 0);
          CHECK(blocking.kv_blocks == (sizes.kv_len + blocking.kv_block - 1) / blocking.kv_block);
          CHECK(blocking.key_depth * vnni_factor >= sizes.head_dim);
          CHECK(blocking.value_depth() * vnni_factor == blocking.kv_block);
          CHECK(blocking.value_width >= sizes.v_head_dim);
          CHECK(blocking.value_width % widths.vector_width == 0);
          CHECK(blocking.value_panels * widths.panel_width >= sizes.v_head_dim);
          CHECK(blocking.value_panels * blocking.value_panel_width >= blocking.value_width);
          CHECK(blocking.value_panel_width % widths.vector_width == 0);
          CHECK(blocking.value_panel_width <= widths.panel_width);
        }
      }
    });
  }
}

TEST_CASE("What decides the order of sums depends on one head's sizes alone") {
  for (const Isa isa : available_isas()) {
    const KernelWidths widths = widths_of(kernels::kernels_for(isa));
    for_each_sizes([&](const Sizes& sizes) {
      INFO(name_of_sizes(sizes));
      const Blocking alone = choose_blocking(sizes, widths, 1, {1, false, true});
      Sizes crowd = sizes;
      crowd.batch = 50;
      crowd.num_kv_heads = 16;
      crowd.num_q_heads = 16 * sizes.group_size;
      const Blocking among_others = choose_blocking(crowd, widths, 1, {32, true, true});
      CHECK(among_others.kv_block == alone.kv_block);
      CHECK(among_others.q_block == alone.q_block);
      CHECK(choose_blocking(crowd, widths, 1, {32, true, false}).kv_block ==
            choose_blocking(sizes, widths, 1, {1, false, false}).kv_block);
    });
  }
}

namespace {

PlanInput plan_input(const Sizes& sizes, int max_threads) {
  return {.sizes = sizes,
          .query_tokens = sizes.batch * sizes.q_len,
          .max_threads = max_threads,
          .widths = {.vector_width = 8, .panel_width = 16, .multiplies_bf16 = true}};
}

constexpr Sizes prompt{.batch = 2,
                       .num_q_heads = 8,
                       .num_kv_heads = 2,
                       .group_size = 4,
                       .q_len = 1000,
                       .kv_len = 3000,
                       .head_dim = 64,
                       .v_head_dim = 80};

Sizes with_lengths(Sizes sizes, std::int64_t q_len, std::int64_t kv_len) {
  sizes.q_len = q_len;
  sizes.kv_len = kv_len;
  return sizes;
}

}  // namespace

TEST_CASE(
    "Few rows are read in place, some blockwise, many are packed, by one thread if one block has "
    "them all") {
  const auto path = [](PlanInput input) { return make_plan(input).path_of(input.sizes.q_len); };
  CHECK(path(plan_input(with_lengths(prompt, 1, 3000), 8)) == Path::unpacked);
  CHECK(path(plan_input(with_lengths(prompt, 6, 3000), 8)) == Path::unpacked);    // 24 rows
  CHECK(path(plan_input(with_lengths(prompt, 7, 3000), 8)) == Path::blockwise);   // 28 rows
  CHECK(path(plan_input(with_lengths(prompt, 32, 3000), 8)) == Path::blockwise);  // 128 rows
  CHECK(path(plan_input(with_lengths(prompt, 33, 3000), 1)) == Path::one_thread);
  CHECK(path(plan_input(with_lengths(prompt, 33, 3000), 8)) == Path::cooperative);
  // Few keys, which are not split: up to 32 rows.
  CHECK(path(plan_input(with_lengths(prompt, 8, 900), 8)) == Path::blockwise);
  CHECK(path(plan_input(with_lengths(prompt, 9, 900), 8)) == Path::cooperative);
  CHECK(path(plan_input(prompt, 8)) == Path::cooperative);
  PlanInput widened = plan_input(with_lengths(prompt, 12, 3000), 8);
  widened.kv_type = DType::i8;
  CHECK(path(widened) == Path::unpacked);  // 48 rows
  PlanInput full_rows = plan_input(with_lengths(prompt, 1, 3000), 8);
  full_rows.needs_full_rows = true;
  CHECK(path(full_rows) == Path::one_thread);
  PlanInput pairs = plan_input(with_lengths(prompt, 3, 3000), 8);
  pairs.q_type = pairs.kv_type = DType::bf16;
  CHECK(path(pairs) == Path::unpacked);  // 12 rows
  pairs.sizes.q_len = 4;
  CHECK(path(pairs) == Path::blockwise);
  PlanInput ragged = plan_input(with_lengths(prompt, 33, 3000), 8);
  ragged.ragged = true;
  CHECK(path(ragged) == Path::cooperative);
  PlanInput onednn = plan_input(with_lengths(prompt, 1, 3000), 8);
  onednn.score_matmul = ScoreMatmul::onednn;
  CHECK(make_plan(onednn).onednn_rows == 128);
  CHECK(path(onednn) == Path::one_thread);
  onednn.q_type = onednn.kv_type = DType::bf16;
  onednn.onednn = {.available = true, .has_amx = true, .bf16_panels = true};
  onednn.score_matmul = ScoreMatmul::automatic;
  CHECK(path(onednn) == Path::unpacked);
}

TEST_CASE("oneDNN multiplies where it is asked to, or has an instruction set of its own") {
  const OnednnSupport none{}, amx{.available = true, .has_amx = true},
      no_amx{.available = true, .f32_panels = true, .bf16_panels = true};
  for (const bool bf16 : {false, true}) {
    for (const OnednnSupport& support : {none, amx, no_amx}) {
      CHECK(takes_onednn(ScoreMatmul::onednn, bf16, support));
      CHECK(!takes_onednn(ScoreMatmul::built_in, bf16, support));
    }
    CHECK(!takes_onednn(ScoreMatmul::automatic, bf16, none));
    CHECK(!takes_onednn(ScoreMatmul::automatic, bf16, no_amx));
    CHECK(takes_onednn(ScoreMatmul::automatic, bf16, amx) == bf16);
  }
}

TEST_CASE("Both multiply the same packed operands") {
  PlanInput input = plan_input(prompt, 4);
  input.score_matmul = ScoreMatmul::onednn;
  input.widths.panel_width = 64;
  input.sizes.head_dim = 40;
  CHECK(make_plan(input).packed_layout == PackedLayout::matrix);
  input.onednn = {.available = true, .f32_panels = true};
  const CallPlan panels = make_plan(input);
  CHECK(panels.packed_layout == PackedLayout::onednn_panels);
  CHECK(panels.packed.key_rows == 48);  // a multiple of 16
  CHECK(panels.key_layout.panel_stride == 48 * 64);
  CHECK(panels.values_in_rows);
  input.sizes.v_head_dim = 300;
  CHECK(!make_plan(input).values_in_rows);
  CHECK(make_plan(input).packed.value_panel_width == 64);
  input.widths.panel_width = 32;
  CHECK(make_plan(input).packed_layout == PackedLayout::matrix);
  // Without panels of bf16, which oneDNN would have to pack in each call, bf16 is widened.
  input.widths.panel_width = 64;
  input.q_type = input.kv_type = DType::bf16;
  CHECK(make_plan(input).packed.vnni_factor == 1);
  input.onednn.bf16_panels = true;
  CHECK(make_plan(input).packed.vnni_factor == 2);
}

TEST_CASE("oneDNN's tiles do not depend on threads, on the batch or on the longest sequence") {
  PlanInput input = plan_input(prompt, 1);
  input.score_matmul = ScoreMatmul::onednn;
  for (const bool full_rows : {false, true}) {
    input.needs_full_rows = full_rows;
    const CallPlan one = make_plan(input);
    PlanInput other = input;
    other.max_threads = 64;
    other.ragged = true;
    other.sizes = with_lengths(prompt, 10, 20);
    other.sizes.batch = 7;
    const CallPlan many = make_plan(other);
    CHECK(many.onednn_rows == one.onednn_rows);
    CHECK(many.packed.q_block == one.packed.q_block);
    CHECK(many.packed.kv_block == one.packed.kv_block);
    for (const std::int64_t keys : {1, 20, 64, 100, 384})
      CHECK(many.onednn_keys(keys) == one.onednn_keys(keys));
  }
}

TEST_CASE("bf16 is multiplied in pairs where everything allows it") {
  PlanInput input = plan_input(prompt, 4);
  input.q_type = input.kv_type = DType::bf16;
  CHECK(make_plan(input).packed.vnni_factor == 2);
  for (const auto& change : std::initializer_list<void (*)(PlanInput&)>{
           [](PlanInput& i) { i.q_type = DType::f32; },
           [](PlanInput& i) { i.kv_type = DType::f16; },
           [](PlanInput& i) { i.widths.multiplies_bf16 = false; },
           [](PlanInput& i) { i.needs_full_rows = true; },
           [](PlanInput& i) { i.score_matmul = ScoreMatmul::onednn; }}) {
    PlanInput changed = input;
    change(changed);
    CHECK(make_plan(changed).packed.vnni_factor == 1);
  }
}

TEST_CASE("Plans have scratch for what their sequences need, and no more threads than items") {
  for (const std::int64_t q_len : {0, 1, 6, 7, 32, 33, 1000}) {
    for (const std::int64_t kv_len : {0, 1, 600, 5000, 100'000}) {
      for (const int max_threads : {1, 3, 64}) {
        CAPTURE(q_len);
        CAPTURE(kv_len);
        CAPTURE(max_threads);
        const Sizes sizes = with_lengths(prompt, q_len, kv_len);
        const CallPlan plan = make_plan(plan_input(sizes, max_threads));
        CHECK(plan.num_threads >= 1);
        CHECK(plan.num_threads <= max_threads);
        const SequenceWork work = plan_sequence(plan, 0, q_len, kv_len, kv_len);
        CHECK((work.compute_items == 0) == (q_len == 0));
        CHECK(work.partial_rows * sizes.batch * sizes.num_kv_heads <= plan.partial_rows);
        if (!is_split(work.path)) CHECK(plan.packed_slots >= 1);
        if (work.path == Path::blockwise) CHECK(plan.blockwise_rows >= q_len * sizes.group_size);
        if (work.path == Path::one_thread) CHECK(plan.packed_slots >= plan.num_threads);
      }
    }
  }
}

TEST_CASE("Splits cover all keys, are no more than announced, and depend on one head alone") {
  for_each_sizes([&](Sizes sizes) {
    for (const std::int64_t keys : {0, 1, 127, 128, 513, 8192, 8193, 100'000}) {
      INFO(name_of_sizes(sizes) << " visible keys " << keys);
      const Splits splits = choose_splits(keys, sizes);
      CHECK(splits.count >= 1);
      CHECK(splits.count * splits.keys >= keys);
      CHECK((splits.count - 1) * splits.keys < std::max<std::int64_t>(keys, 1));
      CHECK(splits.count <= most_splits(keys, sizes));
      CHECK(most_splits(keys, sizes) <= most_splits(keys + 1, sizes));
      Sizes crowd = sizes;
      crowd.batch = 50;
      CHECK(choose_splits(keys, crowd).count == splits.count);
    }
  });
}
