#include "mpi/reduce.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "mpi/agreement.hpp"

namespace attn::mpi {
namespace {

template <class T>
void sum(MPI_Comm comm, MPI_Datatype type, std::span<T> values) {
  constexpr std::size_t at_once = 16384;  // of each rank
  const auto ranks = static_cast<std::size_t>(size_of(comm));
  std::vector<T> all(ranks * std::min(at_once, values.size()));
  for (std::size_t first = 0; first < values.size(); first += at_once) {
    const std::size_t count = std::min(at_once, values.size() - first);
    MPI_Allgather(values.data() + first, static_cast<int>(count), type, all.data(),
                  static_cast<int>(count), type, comm);
    for (std::size_t n = 0; n < count; ++n) {
      double total = 0;
      for (std::size_t rank = 0; rank < ranks; ++rank) total += all[rank * count + n];
      values[first + n] = static_cast<T>(total);
    }
  }
}

}  // namespace

void sum_over_ranks(MPI_Comm comm, std::span<double> values) { sum(comm, MPI_DOUBLE, values); }
void sum_over_ranks(MPI_Comm comm, std::span<float> values) { sum(comm, MPI_FLOAT, values); }

}  // namespace attn::mpi
