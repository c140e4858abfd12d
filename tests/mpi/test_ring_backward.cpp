// Gradients of RingAttention against those of the call in one process.
#include <doctest/doctest.h>

#include "mpi/cut_case.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// This rank's part of the gradients.
struct GradientPart {
  GradientInputs inputs;
  GradientOutputs outputs;
};

StridedTensor part_of(const StridedTensor& whole, int dim, const std::vector<TokenRange>& ranges,
                      Layout layout) {
  if (whole.view_if_made().absent()) return {};
  return rows_of(whole.view(), dim, ranges, layout);
}

bool has_own_rows(const Case& c) {
  return c.mask && c.mask->shape.rank() >= 2 && c.mask->shape[c.mask->shape.rank() - 2] != 1;
}

/// The rows of the whole gradients that belong to this rank.
GradientOutputs own_part(const BackwardCase& c, const GradientOutputs& whole, const RingCut& cut,
                         Layout layout) {
  const auto &queries = cut.queries.ranges(mpi_rank()), &keys = cut.keys.ranges(mpi_rank());
  GradientOutputs own = whole;
  own.dq = part_of(whole.dq, 2, queries, layout);
  own.dk = part_of(whole.dk, 2, keys, layout);
  own.dv = part_of(whole.dv, 2, keys, layout);
  if (has_own_rows(c.call) && !whole.dmask.view_if_made().absent())
    own.dmask = part_of(whole.dmask, whole.dmask.shape().rank() - 2, queries, layout);
  return own;
}

GradientOutputs run_ring(const BackwardCase& c, const Inputs& whole, const GradientInputs& incoming,
                         const Outputs& forward, const RingCut& cut, int num_threads,
                         RingStatistics* statistics = nullptr) {
  CallPart part(c.call, whole, cut);
  const auto& queries = cut.queries.ranges(mpi_rank());
  part.outputs.out = part_of(forward.out, 2, queries, c.call.layout);
  part.outputs.lse = part_of(forward.lse, 2, queries, c.call.layout);
  const GradientInputs own_incoming{part_of(incoming.dout, 2, queries, c.call.layout),
                                    part_of(incoming.dlse, 2, queries, c.call.layout)};
  GradientOutputs outputs = own_part(c, make_gradient_outputs(c), cut, c.call.layout);
  RingAttention ring(MPI_COMM_WORLD, cut, part.tensors(), c.call.options,
                     {.num_threads = num_threads});
  ring.run_backward(part.tensors(), bind(own_incoming, outputs));
  if (statistics != nullptr) *statistics = ring.statistics();
  return outputs;
}

void check_cut(const BackwardCase& c, const RingCut& cut) {
  INFO(repeat_line(c));
  const Inputs whole = make_inputs(c.call);
  const GradientInputs incoming = make_gradient_inputs(c);
  const Outputs forward = run_forward(c, whole);
  ExpectedGradients expected = expected_gradients(c, whole, incoming, forward);
  expected.truth = own_part(c, expected.truth, cut, Layout::bhsd);
  RingStatistics statistics;
  const GradientOutputs own = run_ring(c, whole, incoming, forward, cut, 1, &statistics);
  CHECK(difference(own, expected) == "");
  CHECK(bit_difference(own, run_ring(c, whole, incoming, forward, cut, 3)) == "");
  CHECK(statistics.most_blocks_held <= 2);
}

}  // namespace

TEST_CASE("Gradients of random calls over random cuts equal those in one process") {
  for (const std::uint64_t seed : seeds(1000, 100)) {
    Random random(seed);
    BackwardCase c = random_backward_case(seed);
    leave_what_merges(c.call);
    const RingCut cut{random_cut(random, c.call.q_len), random_cut(random, c.call.kv_len)};
    check_cut(c, cut);
  }
}

TEST_CASE("Gradients of a causal call with everything that is shared") {
  BackwardCase c{
      .call = {.batch = 2, .num_q_heads = 4, .num_kv_heads = 2, .q_len = 33, .kv_len = 33}};
  c.call.options.causal = Causal::bottom_right();
  c.call.alibi = c.call.sinks = true;
  for (const Dims& shape :
       {Dims{33}, Dims{1, 33}, Dims{33, 33}, Dims{4, 1, 33}, Dims{2, 1, 33, 1}}) {
    c.call.mask = DenseMask{.dtype = DType::f32, .shape = shape};
    for (const bool zigzag : {false, true}) {
      const SequenceCut cut =
          zigzag ? SequenceCut::zigzag(33, mpi_size()) : SequenceCut::even(33, mpi_size());
      check_cut(c, {cut, cut});
    }
  }
}

TEST_CASE("Gradients with fewer tokens than ranks") {
  for (const std::int64_t length : {1, 2, 3}) {
    BackwardCase c{.call = {.num_q_heads = 2, .q_len = length, .kv_len = length}};
    c.call.sinks = true;
    const SequenceCut cut = SequenceCut::even(length, mpi_size());
    check_cut(c, {cut, cut});
  }
}

TEST_CASE("Gradients of large scores lose no more than the rounding of lse") {
  for (const float scale : {5.f, 50.f}) {
    BackwardCase c{.call = {.num_q_heads = 3, .q_len = 40, .kv_len = 40}};
    c.call.options.softmax_scale = scale;
    const SequenceCut cut = SequenceCut::even(40, mpi_size());
    check_cut(c, {cut, cut});
  }
}
