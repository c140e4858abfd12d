#include "ranks.hpp"

#include <fcntl.h>
#include <mpi.h>
#include <unistd.h>

#include "program.hpp"

namespace attn::apps {
namespace {

/// Other ranks would say the same as rank 0.
void be_silent() {
  const int nowhere = open("/dev/null", O_WRONLY);
  if (nowhere == -1) return;
  dup2(nowhere, STDOUT_FILENO);
  dup2(nowhere, STDERR_FILENO);
  close(nowhere);
}

}  // namespace

int run_program_on_ranks(const char* name, int (*program)(int argc, char** argv), int argc,
                         char** argv, bool on_ranks) {
  if (!on_ranks) return run_program(name, program, argc, argv);
  int provided = 0, rank = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank != 0) be_silent();
  const int code = run_program(name, program, argc, argv);
  // mpirun ends all ranks when the first one ends with an error, and rank 0 has to print it before.
  MPI_Barrier(MPI_COMM_WORLD);
  MPI_Finalize();
  return code;
}

}  // namespace attn::apps
