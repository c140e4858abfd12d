// Part of the consumer where the package has attn::mpi: it compiles and links.
#include <attn/mpi.hpp>

double tokens_of_rank_0() {
  int initialized = 0;
  MPI_Initialized(&initialized);
  return initialized + static_cast<double>(attn::SequenceCut::zigzag(16, 4).num_tokens(0));
}
