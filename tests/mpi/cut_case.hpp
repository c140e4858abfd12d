// A call that is cut over the ranks of MPI: every rank makes the whole call from the same seed, and
// takes its part.
#pragma once

#include <attn/mpi.hpp>

#include <string>
#include <vector>

#include "support/backward_check.hpp"
#include "support/check.hpp"
#include "support/random_backward_case.hpp"
#include "support/states.hpp"

namespace attn::test {

inline int mpi_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}
inline int mpi_size() {
  int size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

/// Even, zigzag, or at random places, some of them empty.
SequenceCut random_cut(Random& random, std::int64_t length);

/// Rows of a dim, in the order of the ranges, in memory of a layout.
StridedTensor rows_of(const TensorView& whole, int dim, const std::vector<TokenRange>& ranges,
                      Layout layout);

/// This rank's part of a call. A mask has its rows, or the one that it has for all.
struct CallPart {
  Inputs inputs;
  Outputs outputs;

  CallPart(const Case& c, const Inputs& whole, const RingCut& cut);
  AttentionTensors tensors() { return bind(inputs, outputs); }
};

/// A random call that RingAttention takes.
Case random_cut_case(Random& random, std::uint64_t seed);
void leave_what_merges(Case& c);

/// The whole of a call by the reference, with a tolerance for the merge of so many parts.
Expected expected_of_parts(const Case& c, const Inputs& whole, std::size_t parts);
/// The rows of this rank.
Expected own_rows(const Expected& whole, const Case& c, const RingCut& cut);

}  // namespace attn::test
