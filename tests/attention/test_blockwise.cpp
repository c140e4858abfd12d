// Heads with more rows than dot products serve well and fewer than packing pays for: keys are
// multiplied in place, block by block. Multi-query attention, verification of drafted tokens, and
// latent attention (MLA), whose values are a part of its keys.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "support/check.hpp"
#include "support/poison.hpp"
#include "support/random_case.hpp"
#include "support/sequences.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr std::initializer_list<DType> key_types = {DType::f32, DType::bf16, DType::f16, DType::i8};

/// Sizes around those that decide: rows of tiles, vectors and panels; blocks and splits of keys.
Case random_case(std::uint64_t seed) {
  Random random(seed);
  Case c{.seed = seed};
  const std::int64_t group_size =
      random.pick<std::int64_t>({1, 4, 8, 16, 20, 32, 48, 64, 100, 128});
  c.num_kv_heads = random.integer(1, 2);
  c.num_q_heads = c.num_kv_heads * group_size;
  c.q_len = random.integer(1, std::max<std::int64_t>(1, 132 / group_size));
  c.head_dim = random.pick({random.integer(1, 40), random.integer(41, 200)});
  c.v_head_dim = random.pick({random.integer(1, 40), random.integer(41, 200)});
  c.kv_len =
      random.pick({random.integer(0, 200), random.integer(201, 1200), random.integer(1201, 2600)});
  c.layout = random.pick({Layout::bhsd, Layout::bhsd, Layout::bshd, Layout::padded,
                          Layout::strided_dim, Layout::reversed});
  choose_types(random, c);
  choose_options(random, c);
  choose_side_tensors(random, c);
  return c;
}

/// What the kernels for many query heads on one KV head see: D of 72 = 64 + 8, and V of 64.
Case latent(DType type) {
  return {.num_q_heads = 40,
          .num_kv_heads = 1,
          .q_len = 2,
          .kv_len = 1500,
          .head_dim = 72,
          .v_head_dim = 64,
          .q_type = type == DType::i8 ? DType::f32 : type,
          .kv_type = type,
          .options = {.causal = Causal::bottom_right()}};
}

/// V becomes the first v_head_dim elements of K.
void take_values_from_keys(AttentionTensors& tensors) {
  const int last = tensors.k.rank() - 1;
  tensors.v = tensors.k.sliced(last, 0, tensors.v.shape[last]);
  tensors.storage.v_scales = tensors.storage.k_scales;
}

/// The same values, in tensors of their own.
Inputs with_values_of_keys(const Inputs& inputs) {
  Inputs copied = inputs;
  copy_into(inputs.k.view().sliced(3, 0, inputs.v.shape()[3]), copied.v.view());
  copied.v_scales = inputs.k_scales;
  return copied;
}

}  // namespace

TEST_CASE("Random combinations of all options") {
  for (const std::uint64_t seed : seeds(1, 120)) check_case(random_case(seed));
}

TEST_CASE("Every number of rows, by queries and by heads") {
  for (std::int64_t rows = 12; rows <= 130; rows += rows < 36 ? 1 : 7) {
    for (const DType type : {DType::f32, DType::bf16}) {
      check_case({.num_q_heads = rows,
                  .kv_len = 150,
                  .head_dim = 18,
                  .q_type = type,
                  .kv_type = type,
                  .out_type = type});
      check_case({.q_len = rows,
                  .kv_len = 4200,
                  .head_dim = 20,
                  .q_type = type,
                  .kv_type = type,
                  .options = {.causal = Causal{}, .window = Window{40, {}}}});
    }
  }
}

TEST_CASE("Values may be a part of their keys") {
  for (const DType type : key_types) {
    const Case c = latent(type);
    Inputs inputs = make_inputs(c);
    const Inputs copied = with_values_of_keys(inputs);
    const Expected expected = expected_of(c, copied);
    for (const Isa isa : available_isas()) {
      INFO(to_string(c), " ", name_of(isa));
      Outputs shared = make_outputs(c);
      AttentionTensors tensors = bind(inputs, shared);
      take_values_from_keys(tensors);
      attention(tensors, c.options, {.isa = isa});
      CHECK(difference(shared, expected) == "");
      CHECK(bit_difference(shared, run(copied, c, isa)) == "");
    }
  }
}

TEST_CASE("Values that are a part of their keys, in pages, in rings and ragged") {
  for (const KeyForm form : key_forms) {
    for (const std::int64_t page_size : {1, 7, 16, 64}) {
      if (form != KeyForm::paged && page_size != 16) continue;
      for (const DType type : key_types) {
        Sequences s{.common = latent(type),
                    .q_lens = {1, 3, 2, 0, 1},
                    .kv_lens = {1100, 5, 700, 9, 3000},
                    .key_form = form,
                    .page_size = page_size};
        Together together(s);
        INFO(to_string(s));
        AttentionTensors tensors = together.tensors();
        take_values_from_keys(tensors);
        attention(tensors, together.options(), {.num_threads = 2});
        CHECK(together.gaps_untouched());
        for (std::size_t b = 0; b < together.alone().size(); ++b) {
          CAPTURE(b);
          const Alone& alone = together.alone()[b];
          Outputs wanted = run(with_values_of_keys(alone.inputs), alone.c);
          CHECK(bit_difference(together.outputs(static_cast<std::int64_t>(b)), wanted) == "");
        }
      }
    }
  }
}

TEST_CASE("The number of threads, the batch and the longest sequence change no bit") {
  for (const KeyForm form : key_forms) {
    for (const DType type : key_types) {
      Sequences s{.common = {.num_q_heads = 4,
                             .num_kv_heads = 1,
                             .head_dim = 64,
                             .q_type = type == DType::i8 ? DType::bf16 : type,
                             .kv_type = type,
                             .options = {.softcap = 8.f, .causal = Causal::bottom_right()},
                             .seed = 5},
                  .q_lens = {10, 16, 32, 4, 32},
                  .kv_lens = {900, 600, 2500, 4000, 33},
                  .key_form = form};
      INFO(to_string(s));
      Together together(s);
      std::vector<Outputs> alone;
      for (const Alone& one : together.alone()) alone.push_back(run(one.inputs, one.c));
      for (const int num_threads : {1, 2, 3, 7}) {
        CAPTURE(num_threads);
        attention(together.tensors(), together.options(), {.num_threads = num_threads});
        for (std::size_t b = 0; b < alone.size(); ++b)
          CHECK(bit_difference(together.outputs(static_cast<std::int64_t>(b)), alone[b]) == "");
      }
    }
  }
}

TEST_CASE("What hidden keys hold changes no bit, and visible NaN stays in its column") {
  for (const DType type : {DType::f32, DType::bf16, DType::f16}) {
    Case c = latent(type);
    c.mask = DenseMask{.shape = {1, c.kv_len}, .hidden = 0};
    Inputs inputs = make_inputs(c);
    const KeySet hidden(inputs.k.shape(), 0.05, 7);
    for (std::int64_t j = 0; j < c.kv_len; ++j) {
      if (hidden.contains(0, 0, j)) inputs.mask.set({0, j}, 0);
    }
    const Outputs wanted = run(inputs, c);
    for (const std::uint64_t bits : poisons(type)) {
      Inputs poisoned = inputs;
      put(poisoned.k, hidden, bits, true);
      put(poisoned.v, hidden, bits, true);
      CHECK(bit_difference(run(poisoned, c), wanted) == "");
    }
    inputs.v.set_bits({0, 0, 700, 5}, poisons(type)[0]);
    if (hidden.contains(0, 0, 700)) inputs.mask.set({0, 700}, 1);
    check_inputs(c, inputs);
  }
}
