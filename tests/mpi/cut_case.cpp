#include "mpi/cut_case.hpp"

#include <algorithm>

namespace attn::test {
namespace {

/// MPI lasts as long as the program, whose main() knows nothing of it.
struct Mpi {
  Mpi() {
    int provided = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  }
  ~Mpi() { MPI_Finalize(); }
} const mpi;

StridedTensor in_layout(const TensorView& view, Layout layout) {
  StridedTensor tensor(view.dtype, view.shape, layout);
  copy_into(view, tensor.view());
  return tensor;
}

}  // namespace

SequenceCut random_cut(Random& random, std::int64_t length) {
  if (random.chance(0.2)) return SequenceCut::even(length, mpi_size());
  if (random.chance(0.25)) return SequenceCut::zigzag(length, mpi_size());
  SequenceCut cut = SequenceCut::even(0, mpi_size());
  while (cut.length() < length) {
    const auto rank = static_cast<int>(random.integer(0, mpi_size() - 1));
    cut.append(rank,
               random.integer(1, std::min<std::int64_t>(length - cut.length(), 1 + length / 3)));
  }
  return cut;
}

StridedTensor rows_of(const TensorView& whole, int dim, const std::vector<TokenRange>& ranges,
                      Layout layout) {
  Dims shape = whole.shape;
  shape[dim] = 0;
  for (const TokenRange& range : ranges) shape[dim] += range.size();
  StridedTensor part(whole.dtype, shape, layout);
  std::int64_t row = 0;
  for (const TokenRange& range : ranges) {
    copy_into(whole.sliced(dim, range.begin, range.end),
              part.view().sliced(dim, row, row + range.size()));
    row += range.size();
  }
  return part;
}

CallPart::CallPart(const Case& c, const Inputs& whole, const RingCut& cut) {
  const auto &queries = cut.queries.ranges(mpi_rank()), &keys = cut.keys.ranges(mpi_rank());
  inputs.q = rows_of(whole.q.view(), 2, queries, c.layout);
  inputs.k = rows_of(whole.k.view(), 2, keys, c.layout);
  inputs.v = rows_of(whole.v.view(), 2, keys, c.layout);
  if (c.mask) {
    const Dims& shape = whole.mask.shape();
    const int dim = shape.rank() - 2;
    inputs.mask = dim >= 0 && shape[dim] != 1 ? rows_of(whole.mask.view(), dim, queries, c.layout)
                                              : in_layout(whole.mask.view(), c.layout);
  }
  if (c.alibi) inputs.alibi_slopes = in_layout(whole.alibi_slopes.view(), c.layout);
  if (c.sinks) inputs.sinks = in_layout(whole.sinks.view(), c.layout);
  if (!c.kv_lens.empty()) inputs.kv_lens = in_layout(whole.kv_lens.view(), c.layout);
  Case own = c;
  own.q_len = cut.queries.num_tokens(mpi_rank());
  outputs = make_outputs(own);
}

void leave_what_merges(Case& c) {
  c.options.normalizer = Normalizer::softmax();
  c.options.block_mask.reset();
  if (c.kv_type == DType::i8) c.kv_type = DType::bf16;
}

Case random_cut_case(Random& random, std::uint64_t seed) {
  Case c{.seed = seed};
  choose_backward_sizes(random, c);
  choose_types(random, c);
  choose_options(random, c);
  choose_side_tensors(random, c);
  leave_what_merges(c);
  return c;
}

Expected expected_of_parts(const Case& c, const Inputs& whole, std::size_t parts) {
  Expected expected = expected_of(c, whole);
  const double largest_value = largest_finite(whole.v.values());
  const MergeTolerance merging(parts, c.out_type, largest_value, largest_finite(expected.lse));
  expected.out_tolerance += 2 * expected.lse_tolerance * largest_value + merging.out;
  expected.lse_tolerance += merging.lse;
  return expected;
}

Expected own_rows(const Expected& whole, const Case& c, const RingCut& cut) {
  Expected own = whole;
  const auto take = [&](const std::vector<double>& values, std::int64_t width) {
    StridedTensor all(DType::f64, {c.batch, c.num_q_heads, c.q_len, width});
    all.assign(values);
    return rows_of(all.view(), 2, cut.queries.ranges(mpi_rank()), Layout::bhsd).values();
  };
  own.out = take(whole.out, c.value_dim());
  if (!whole.lse.empty()) own.lse = take(whole.lse, 1);
  return own;
}

}  // namespace attn::test
