// Few rows of queries: keys and values are read in place, up to the number of rows from which
// whole blocks of keys are multiplied. Keys of long sequences are split; the limits are written
// down here again, so that a change of them is noticed.
#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "support/check.hpp"
#include "support/masks.hpp"
#include "support/random_case.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// The largest numbers of rows for which K and V are read in place: for f32, and for types that are
/// widened.
constexpr std::int64_t most_rows_in_place = 24, most_widened_rows_in_place = 48;

/// The number of keys of a split when there are not enough keys for 16 splits.
std::int64_t split_keys(const Case& c) {
  const std::int64_t enough = 128 * 1024 / (c.head_dim + c.value_dim());
  return (enough + 127) / 128 * 128;
}

void choose_few_rows(Random& random, Case& c) {
  c.batch = random.integer(1, 3);
  c.num_kv_heads = random.integer(1, 3);
  const std::int64_t group_size = random.pick<std::int64_t>({1, 1, 2, 3, 4, 6, 8, 12});
  c.num_q_heads = c.num_kv_heads * group_size;
  const bool near_threshold = random.chance(0.3);
  const std::int64_t rows = near_threshold
                                ? random.pick<std::int64_t>({12, most_rows_in_place, 48}) +
                                      random.integer(-1, 1) * group_size
                                : random.integer(1, 40);
  c.q_len = std::max<std::int64_t>(1, rows / group_size);
  const std::int64_t near_block = 128 * random.integer(1, 3) + random.integer(-2, 2);
  c.kv_len = random.chance(0.5) ? near_block : random.integer(0, 90);
  const auto dim = [&] {
    return random.chance(0.2) ? random.integer(65, 130) : random.integer(1, 64);
  };
  c.head_dim = dim();
  if (random.chance(0.5)) c.v_head_dim = dim();
  c.layout = random.pick({Layout::bhsd, Layout::bhsd, Layout::bshd, Layout::padded,
                          Layout::strided_dim, Layout::reversed});
}

Case random_case(std::uint64_t seed) {
  Random random(seed);
  Case c{.seed = seed};
  choose_few_rows(random, c);
  choose_types(random, c);
  choose_options(random, c);
  choose_side_tensors(random, c);
  return c;
}

/// Numbers of keys around the boundaries of two and more splits.
Case random_split_case(std::uint64_t seed) {
  Random random(seed);
  Case c{.seed = seed};
  choose_few_rows(random, c);
  c.q_len = std::max<std::int64_t>(
      1, random.integer(1, most_rows_in_place) * c.num_kv_heads / c.num_q_heads);
  c.batch = random.integer(1, 2);
  c.head_dim = random.integer(60, 140);
  c.v_head_dim = random.integer(60, 140);
  c.kv_len = random.integer(1, 3) * split_keys(c) + random.integer(-1, 2);
  choose_types(random, c);
  choose_options(random, c);
  choose_side_tensors(random, c);
  return c;
}

constexpr std::initializer_list<DType> key_types = {DType::f32, DType::bf16, DType::f16, DType::i8};

Case usual() {
  return {.batch = 2,
          .num_q_heads = 4,
          .num_kv_heads = 2,
          .q_len = 3,
          .kv_len = 150,
          .head_dim = 20,
          .v_head_dim = 33};
}

}  // namespace

TEST_CASE("Random combinations of all options") {
  for (const std::uint64_t seed : seeds(1, 300)) check_case(random_case(seed));
}

TEST_CASE("Random combinations of all options, split by keys") {
  for (const std::uint64_t seed : seeds(1, 24)) check_case(random_split_case(seed));
}

TEST_CASE("Every number of rows, by queries and by heads, with each type of keys") {
  for (const DType kv_type : key_types) {
    for (std::int64_t rows = 1; rows <= most_widened_rows_in_place + 2; ++rows) {
      check_case(
          {.num_q_heads = rows, .q_len = 1, .kv_len = 40, .head_dim = 16, .kv_type = kv_type});
      check_case({.num_q_heads = 1,
                  .q_len = rows,
                  .kv_len = 40,
                  .head_dim = 16,
                  .kv_type = kv_type,
                  .options = {.causal = Causal{}}});
    }
  }
}

TEST_CASE("Every head dim, with each type of keys") {
  for (const DType kv_type : key_types) {
    for (std::int64_t dim = 1; dim <= 130; dim += dim < 34 ? 1 : 3) {
      check_case({.num_q_heads = 2,
                  .kv_len = 33,
                  .head_dim = dim,
                  .v_head_dim = 131 - dim,
                  .kv_type = kv_type});
    }
  }
}

TEST_CASE("Every layout, with each type of keys") {
  for (const DType kv_type : key_types) {
    for (const Layout layout :
         {Layout::bhsd, Layout::bshd, Layout::padded, Layout::strided_dim, Layout::reversed}) {
      Case c = usual();
      c.kv_type = kv_type;
      c.layout = layout;
      check_case(c);
    }
  }
}

TEST_CASE("Keys, values and their scales, each with strides of its own") {
  Case c = usual();
  c.kv_type = DType::i8;
  constexpr Layout layouts[] = {Layout::bhsd, Layout::bshd, Layout::padded, Layout::strided_dim,
                                Layout::reversed};
  for (std::size_t n = 0; n < std::size(layouts); ++n) {
    Inputs inputs = make_inputs(c);
    std::size_t turn = n;
    for (StridedTensor* tensor : {&inputs.k, &inputs.v, &inputs.k_scales, &inputs.v_scales}) {
      StridedTensor moved(tensor->dtype(), tensor->shape(), layouts[turn++ % std::size(layouts)]);
      copy_into(tensor->view(), moved.view());
      *tensor = moved;
    }
    check_inputs(c, inputs);
  }
}

TEST_CASE("Every kv_len about blocks, and none") {
  for (const std::int64_t kv_len : {0,  1,   2,   3,   4,   5,   15,  16,  17,  63,  64,
                                    65, 127, 128, 129, 130, 255, 256, 257, 383, 384, 385}) {
    Case c = usual();
    c.kv_len = kv_len;
    check_case(c);
    c.sinks = true;
    c.kv_type = DType::i8;
    check_case(c);
  }
}

TEST_CASE("Every causal mask with every window") {
  Case c = usual();
  for (const auto& causal : causal_masks(c.q_len, c.kv_len)) {
    for (const auto& window : windows()) {
      c.options.causal = causal;
      c.options.window = window;
      check_case(c);
    }
  }
}

TEST_CASE("Dense masks of every shape and type") {
  Case c = usual();
  for (const Dims& shape : mask_shapes(c)) {
    for (const DType dtype : {DType::boolean, DType::f32}) {
      c.mask = {.dtype = dtype, .shape = shape, .hidden = 0.5};
      check_case(c);
    }
  }
}

TEST_CASE("Scales of either sign, none and tiny ones, in one part and in several") {
  for (const std::int64_t kv_len : {150, 2100}) {
    for (const float scale : {0.2f, -0.2f, 0.f, -0.f, 1e-40f, 1e-30f}) {
      Case c{.num_q_heads = 2,
             .q_len = 2,
             .kv_len = kv_len,
             .head_dim = 64,
             .options = {.softmax_scale = scale}};
      check_case(c);
      c.sinks = c.alibi = true;
      check_case(c);
    }
  }
}

TEST_CASE("Ends around the boundaries of splits, up to the most splits") {
  Case c{.num_q_heads = 2, .q_len = 1, .head_dim = 64};
  for (const std::int64_t splits : {1, 2, 3, 16}) {
    for (const std::int64_t step : {-1, 0, 1}) {
      c.kv_len = splits * split_keys(c) + step;
      check_case(c);
    }
  }
  c.head_dim = 16;
  c.kv_len = 8193;
  check_case(c);
}

TEST_CASE("Parts that some rows, or all, see nothing of") {
  Case c{.batch = 3, .num_q_heads = 1, .q_len = 5, .kv_len = 3 * 1024 + 100, .head_dim = 64};
  c.kv_lens = {c.kv_len, 1024, 0};
  check_case(c);
  for (const std::int64_t offset : {-3, 1020, 1022, 1023, 2046}) {
    c.options.causal = Causal::with_offset(offset);
    check_case(c);
  }
  c.options.causal = Causal::bottom_right();
  c.options.window = Window{1025, {}};
  check_case(c);
  c.mask = DenseMask{.shape = {1, 1, c.q_len, 1}, .hidden = 0.5};
  c.sinks = true;
  check_case(c);
  // Only keys from a first one on are visible, so that whole splits have no visible key.
  c.mask.reset();
  c.options.window.reset();
  for (const std::int64_t first_key : {1000, 1024, 2500, 3200}) {
    c.options.mask_mod = [first_key](const KeyRun& run, bool* seen) {
      for (std::int64_t n = 0; n < run.count; ++n)
        seen[n] = run.key_begin + n >= first_key + 300 * run.q_index;
    };
    check_case(c);
  }
}
