// Sums over ranks whose order is that of the ranks, which MPI_Allreduce does not promise.
#pragma once

#include <mpi.h>

#include <span>

namespace attn::mpi {

/// values[n] becomes the sum of all ranks' values[n], added in double, on all ranks.
void sum_over_ranks(MPI_Comm comm, std::span<double> values);
void sum_over_ranks(MPI_Comm comm, std::span<float> values);

}  // namespace attn::mpi
