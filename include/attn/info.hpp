// What this build of the library is, and what it found on this machine.
#pragma once

#include <attn/isa.hpp>

#include <string>
#include <vector>

namespace attn {

struct BuildInfo {
  std::string version;         // of attn: "0.1.0"
  std::string compiler;        // that built it: "GCC 12.2.0"
  std::string onednn_version;  // of the library that is loaded: "2.6.3"
  std::vector<Isa> isas;      // with kernels in this build, whether or not this processor runs them
  int num_threads = 1;        // OpenMP's, which a call takes by default
  std::string onednn_matmul;  // what oneDNN chose for a tile of scores here: "brg:avx512_core"
  bool onednn_matmul_fast = false;  // whether that is a kernel compiled for the tile, not a general
                                    // product or plain loops
};

/// Asks oneDNN to make a small matmul. Throws Error(unsupported) if it cannot.
BuildInfo build_info();

}  // namespace attn
