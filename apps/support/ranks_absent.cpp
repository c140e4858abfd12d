// In a build without MPI.
#include "program.hpp"
#include "ranks.hpp"

namespace attn::apps {

int run_program_on_ranks(const char* name, int (*program)(int argc, char** argv), int argc,
                         char** argv, bool) {
  return run_program(name, program, argc, argv);
}

}  // namespace attn::apps
