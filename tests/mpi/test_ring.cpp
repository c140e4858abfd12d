// RingAttention against the call in one process: random calls and cuts, gradients, bits, the ring's
// counters.
#include <attn/error.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>

#include "mpi/cut_case.hpp"

using namespace attn;
using namespace attn::test;

namespace {

Outputs run_ring(const Case& c, const Inputs& whole, const RingCut& cut, int num_threads = 1,
                 RingStatistics* statistics = nullptr) {
  CallPart part(c, whole, cut);
  Execution execution = c.execution;
  execution.num_threads = num_threads;
  RingAttention ring(MPI_COMM_WORLD, cut, part.tensors(), c.options, execution);
  ring.run(part.tensors());
  if (statistics != nullptr) *statistics = ring.statistics();
  return part.outputs;
}

RingCut zigzag(const Case& c) {
  return {SequenceCut::zigzag(c.q_len, mpi_size()), SequenceCut::zigzag(c.kv_len, mpi_size())};
}
RingCut even(const Case& c) {
  return {SequenceCut::even(c.q_len, mpi_size()), SequenceCut::even(c.kv_len, mpi_size())};
}

/// Checks the forward, and that neither repetition nor threads change a bit.
void check_cut(const Case& c, const RingCut& cut) {
  INFO(repeat_line(c));
  const Inputs whole = make_inputs(c);
  RingStatistics statistics;
  const Outputs own = run_ring(c, whole, cut, 1, &statistics);
  const Expected expected = expected_of_parts(c, whole, 4 * static_cast<std::size_t>(mpi_size()));
  CHECK(difference(own, own_rows(expected, c, cut)) == "");
  CHECK(bit_difference(own, run_ring(c, whole, cut, 3)) == "");
  CHECK(statistics.most_blocks_held <= 2);
  CHECK(statistics.blocks_computed + statistics.blocks_skipped == mpi_size());
}

Case causal_case() {
  Case c{.batch = 2, .num_q_heads = 4, .num_kv_heads = 2, .q_len = 37, .kv_len = 37};
  c.options.causal = Causal::bottom_right();
  return c;
}

}  // namespace

TEST_CASE("Random calls over random cuts equal the call in one process") {
  for (const std::uint64_t seed : seeds(0, 150)) {
    Random random(seed);
    const Case c = random_cut_case(random, seed);
    const RingCut cut{random_cut(random, c.q_len), random_cut(random, c.kv_len)};
    check_cut(c, cut);
  }
}

TEST_CASE("Fewer tokens than ranks, and no tokens") {
  for (const std::int64_t q_len : {0, 1, 2, 3}) {
    for (const std::int64_t kv_len : {0, 1, 2}) {
      Case c{.batch = 2, .num_q_heads = 2, .q_len = q_len, .kv_len = kv_len};
      c.sinks = true;
      check_cut(c, even(c));
      check_cut(c, zigzag(c));
    }
  }
}

TEST_CASE("A rank without any token takes part") {
  Case c = causal_case();
  SequenceCut cut = SequenceCut::even(0, mpi_size());
  cut.append(mpi_size() - 1, 37);
  check_cut(c, {cut, cut});
  check_cut(c, {SequenceCut::even(37, mpi_size()), cut});
}

TEST_CASE("A hidden key is never read into the result, wherever it came from") {
  Case c = causal_case();
  c.options.causal = Causal::with_offset(-5);
  c.kv_lens = {20, 3};
  Inputs whole = make_inputs(c);
  const Outputs clean = run_ring(c, whole, zigzag(c));
  for (std::int64_t b = 0; b < c.batch; ++b) {
    for (std::int64_t j = c.kv_lens[static_cast<std::size_t>(b)]; j < c.kv_len; ++j) {
      for (std::int64_t d = 0; d < c.head_dim; ++d) {
        whole.k.set({b, 1, j, d}, std::numeric_limits<double>::quiet_NaN());
        whole.v.set({b, 0, j, d}, infinity);
      }
    }
  }
  CHECK(bit_difference(clean, run_ring(c, whole, zigzag(c))) == "");
}

TEST_CASE("Scores far from 0 merge without losing digits of lse more than once") {
  Case c = causal_case();
  c.options.softmax_scale = 300.f;
  check_cut(c, zigzag(c));
  c.sinks = true;
  check_cut(c, even(c));
}

TEST_CASE(
    "Blocks of which nothing is visible are skipped, and not sent further than they are needed") {
  const int size = mpi_size(), rank = mpi_rank();
  Case c = causal_case();
  c.q_len = c.kv_len = 64;
  const Inputs whole = make_inputs(c);
  const std::int64_t block = c.batch * c.num_kv_heads * 64 / size * (8 + 8) * 4;
  RingStatistics statistics;
  if (64 % size != 0) return;
  run_ring(c, whole, even(c), 1, &statistics);
  // Rank r sees the blocks of the r + 1 ranks up to itself.
  CHECK(statistics.blocks_computed == rank + 1);
  CHECK(statistics.blocks_skipped == size - 1 - rank);
  CHECK(statistics.bytes_received == rank * block);
  CHECK(statistics.bytes_sent == (rank == size - 1 ? 0 : (rank + 1) * block));
  CHECK(statistics.most_blocks_held == (rank == 0 ? 0 : std::min(rank, 2)));

  run_ring(c, whole, zigzag(c), 1, &statistics);
  CHECK(statistics.blocks_computed == size);

  c.options.window = Window{3, 0};
  run_ring(c, whole, even(c), 1, &statistics);
  CHECK(statistics.blocks_computed == (rank == 0 ? 1 : 2));
  CHECK(statistics.bytes_received == (rank == 0 ? 0 : block));
}

TEST_CASE("A plan runs again with other data") {
  Case c = causal_case();
  const RingCut cut = zigzag(c);
  CallPart planned(c, make_inputs(c), cut);
  RingAttention ring(MPI_COMM_WORLD, cut, planned.tensors(), c.options);
  for (const std::uint64_t seed : {3, 4}) {
    c.seed = seed;
    CallPart part(c, make_inputs(c), cut);
    ring.run(part.tensors());
    CHECK(bit_difference(part.outputs, run_ring(c, make_inputs(c), cut)) == "");
  }
  RingAttention moved = std::move(ring);
  CHECK_THROWS_AS(ring.run(planned.tensors()), Error);
  moved.run(planned.tensors());
}
