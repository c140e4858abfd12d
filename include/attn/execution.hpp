// How a function runs: the number of threads and the instruction set.
#pragma once

#include <attn/isa.hpp>

#include <optional>

namespace attn {

/// The number of threads does not change a result: it has the same bits for any of them. Results of
/// different ISAs differ in the last bits.
struct Execution {
  /// An upper limit, at least 1. Default: OpenMP's number of threads, or 1 inside a parallel region
  /// of the caller.
  std::optional<int> num_threads{};
  /// Default: default_isa(). An ISA that this processor lacks is refused with Error(unsupported).
  std::optional<Isa> isa{};
};

}  // namespace attn
