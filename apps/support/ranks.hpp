// The ranks of MPI that a program runs on, if it was built with MPI.
#pragma once

namespace attn::apps {

/// Runs a program as run_program() does; with `on_ranks`, between the beginning and the end of MPI.
/// It happens on each rank then, and rank 0 alone prints.
int run_program_on_ranks(const char* name, int (*program)(int argc, char** argv), int argc,
                         char** argv, bool on_ranks);

}  // namespace attn::apps
