// The version of the library, how it was built, and what it uses on this machine.
#pragma once

#include <attn/export.hpp>
#include <attn/isa.hpp>

#include <string>
#include <vector>

namespace attn {

struct BuildInfo {
  std::string version;   // version of attn, for example "0.1.0"
  std::string compiler;  // compiler that built it, for example "GCC 12.2.0"
  /// Version of the oneDNN library that is loaded, for example "2.6.3". Empty in a build without
  /// oneDNN (ATTN_WITH_ONEDNN=OFF).
  std::string onednn_version;
  std::vector<Isa> isas;  // ISAs with kernels in this build; the processor may lack some
  int num_threads = 1;    // number of threads of a call that names none
  /// oneDNN's name of the matmul that it chose for a tile of scores, for example
  /// "brg:avx512_core". Empty without oneDNN.
  std::string onednn_matmul;
  /// Whether this matmul is a kernel that oneDNN compiled for the shape, and not a general matrix
  /// product or plain loops.
  bool onednn_matmul_fast = false;
};

/// Collects the information; with oneDNN, it makes a small matmul to do so. Throws
/// Error(unsupported) if oneDNN cannot make it.
ATTN_API BuildInfo build_info();

}  // namespace attn
