// tree_attention and ShardedKvCache against attention over all keys in one process.
#include <attn/error.hpp>

#include <doctest/doctest.h>

#include "mpi/cut_case.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// All queries, and this rank's keys.
Outputs run_tree(const Case& c, const Inputs& whole, const SequenceCut& keys, int num_threads) {
  const auto& own = keys.ranges(mpi_rank());
  Inputs inputs = whole;
  inputs.k = rows_of(whole.k.view(), 2, own, c.layout);
  inputs.v = rows_of(whole.v.view(), 2, own, c.layout);
  if (c.kv_type == DType::i8) {
    inputs.k_scales = rows_of(whole.k_scales.view(), 2, own, c.layout);
    inputs.v_scales = rows_of(whole.v_scales.view(), 2, own, c.layout);
  }
  Outputs outputs = make_outputs(c);
  tree_attention(MPI_COMM_WORLD, keys, bind(inputs, outputs), c.options,
                 {.num_threads = num_threads});
  return outputs;
}

void check_tree(const Case& c, const SequenceCut& keys) {
  INFO(repeat_line(c));
  const Inputs whole = make_inputs(c);
  const Outputs own = run_tree(c, whole, keys, 1);
  CHECK(difference(own, expected_of_parts(c, whole, 4 * static_cast<std::size_t>(mpi_size()))) ==
        "");
  CHECK(bit_difference(own, run_tree(c, whole, keys, 3)) == "");
}

}  // namespace

TEST_CASE("Random calls over keys that are cut equal the call in one process") {
  for (const std::uint64_t seed : seeds(2000, 100)) {
    Random random(seed);
    Case c = random_cut_case(random, seed);
    c.q_len = random.integer(1, 4);
    c.mask.reset();
    if (random.chance(0.3)) c.kv_type = DType::i8;
    check_tree(c, random_cut(random, c.kv_len));
  }
}

TEST_CASE("Fewer keys than ranks, and no keys") {
  for (const std::int64_t kv_len : {0, 1, 2, 3}) {
    Case c{.batch = 2, .num_q_heads = 2, .q_len = 1, .kv_len = kv_len};
    check_tree(c, SequenceCut::even(kv_len, mpi_size()));
    c.sinks = true;
    check_tree(c, SequenceCut::even(kv_len, mpi_size()));
  }
}

TEST_CASE("All ranks get the same bits") {
  Case c{.num_q_heads = 4, .num_kv_heads = 2, .kv_len = 100};
  const Outputs own = run_tree(c, make_inputs(c), SequenceCut::even(100, mpi_size()), 1);
  std::vector<double> first = own.out.values();
  MPI_Bcast(first.data(), static_cast<int>(first.size()), MPI_DOUBLE, 0, MPI_COMM_WORLD);
  CHECK(first == own.out.values());
}

TEST_CASE("A rank that fails is an error on all") {
  Case c{.num_q_heads = 2, .q_len = 1, .kv_len = 10};
  c.options.mask_mod = [](const KeyRun& run, bool* visible) {
    if (mpi_rank() == mpi_size() - 1) throw std::runtime_error("gone");
    for (std::int64_t n = 0; n < run.count; ++n) visible[n] = true;
  };
  CHECK_THROWS_WITH_AS(run_tree(c, make_inputs(c), SequenceCut::even(10, mpi_size()), 1),
                       doctest::Contains("gone"), Error);
  if (mpi_size() == 1) return;
  c.options = {};
  c.options.softcap = mpi_rank() == 0 ? 3.f : 4.f;
  CHECK_THROWS_WITH_AS(run_tree(c, make_inputs(c), SequenceCut::even(10, mpi_size()), 1),
                       doctest::Contains("softcap is 3 on rank 0 and 4 on rank 1"), Error);
}

TEST_CASE("Decoding with a sharded cache, a token at a time and with truncated drafts") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool positions : {false, true}) {
      Case c{.batch = 2,
             .num_q_heads = 4,
             .num_kv_heads = 2,
             .q_len = 2,
             .kv_len = 60,
             .head_dim = 16};
      c.kv_type = dtype;
      c.alibi = positions;
      c.options.causal = Causal::bottom_right();
      if (positions) c.options.window = Window{23, {}};
      const Inputs whole = make_inputs(c);
      ShardedKvCache cache(
          MPI_COMM_WORLD,
          {.part = {.batch = 2, .num_kv_heads = 2, .capacity = 60, .head_dim = 16, .dtype = dtype},
           .keys_per_turn = 4});
      // A prompt of which each rank has computed its own part.
      const SequenceCut prompt = SequenceCut::zigzag(31, mpi_size());
      const auto& own = prompt.ranges(mpi_rank());
      cache.append_part(prompt, rows_of(whole.k.view(), 2, own, Layout::bhsd).view(),
                        rows_of(whole.v.view(), 2, own, Layout::bhsd).view());
      for (std::int64_t length = 32; length <= 60; ++length) {
        const auto appended = [&](std::int64_t begin, std::int64_t end) {
          cache.append(whole.k.view().sliced(2, begin, end), whole.v.view().sliced(2, begin, end));
        };
        if (length == 40 || length == 45) {
          appended(length - 1, 60);
          cache.truncate(length - 1);
        }
        appended(length - 1, length);
        CHECK(cache.length() == length);
      }
      // Two drafts too many.
      Outputs outputs = make_outputs(c);
      cache.attention({.q = whole.q.view(),
                       .out = outputs.out.view(),
                       .alibi_slopes = whole.alibi_slopes.view_if_made(),
                       .lse = outputs.lse.view()},
                      c.options);
      CHECK(difference(outputs, expected_of_parts(c, whole, 60)) == "");
    }
  }
}

TEST_CASE("Turns keep the ranks balanced") {
  Tensor k(DType::f32, {1, 1, 1, 4});
  ShardedKvCache cache(MPI_COMM_WORLD, {.part = {.num_kv_heads = 1, .capacity = 16, .head_dim = 4},
                                        .keys_per_turn = 3});
  for (int n = 0; n < 12 * mpi_size(); ++n) {
    cache.append(k.view(), k.view());
    std::int64_t least = 100, most = 0;
    for (int rank = 0; rank < mpi_size(); ++rank) {
      least = std::min(least, cache.cut().num_tokens(rank));
      most = std::max(most, cache.cut().num_tokens(rank));
    }
    CHECK(most - least <= 3);
  }
  cache.clear();
  CHECK(cache.length() == 0);
  Tensor many(DType::f32, {1, 1, 16 * mpi_size() + 1, 4});
  CHECK_THROWS_WITH_AS(cache.append(many.view(), many.view()), doctest::Contains("capacity is 16"),
                       Error);
  CHECK(cache.length() == 0);
  CHECK_THROWS_AS(cache.append(many.view(), k.view()), Error);
  CHECK_THROWS_AS(cache.truncate(1), Error);
  CHECK_THROWS_AS(
      ShardedKvCache(MPI_COMM_WORLD,
                     {.part = {.num_kv_heads = 1, .capacity = 16, .head_dim = 4, .rolling = true}}),
      Error);
}

TEST_CASE("Caches that have come to differ are found") {
  if (mpi_size() == 1) return;
  Tensor k(DType::f32, {1, 1, 5, 4}), q(DType::f32, {1, 1, 1, 4}), out(DType::f32, {1, 1, 1, 4});
  ShardedKvCache cache(MPI_COMM_WORLD,
                       {.part = {.num_kv_heads = 1, .capacity = 16, .head_dim = 4}});
  cache.append(k.view(), k.view());
  if (mpi_rank() == 1) cache.truncate(3);
  CHECK_THROWS_WITH_AS(cache.attention({.q = q.view(), .out = out.view()}),
                       doctest::Contains("the cut of keys is"), Error);
}
