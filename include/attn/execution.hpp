// How a function runs, apart from what it computes.
#pragma once

#include <attn/isa.hpp>

#include <optional>

namespace attn {

/// Results have the same bits for any number of threads. Different ISAs differ in the last bits.
struct Execution {
  std::optional<int> num_threads{};  // at most so many; default: OpenMP's, inside a caller's own
                                     // parallel region always 1
  std::optional<Isa> isa{};          // default: default_isa()
};

}  // namespace attn
