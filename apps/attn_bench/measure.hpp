// Measures one case: makes its tensors, verifies the result, and times the call.
#pragma once

#include <attn/attn.hpp>

#include <cstddef>
#include <string>
#include <vector>

#include "apps/support/peak.hpp"
#include "case.hpp"

namespace attn::apps::bench {

struct Settings {
  int num_threads = 1;
  std::vector<int> simulated_threads{};
  double min_time = 0.3;  // seconds
  Isa isa = Isa::baseline;
  Executor* executor = nullptr;  // null: the library's own threads
};

/// What a number of threads would make of the call.
struct Simulated {
  int threads;
  double ms;
  double share_of_ideal;
};

struct Result {
  double median_ms = 0;
  double min_ms = 0;
  double mean_ms = 0;
  double p99_ms = 0;       // 99 of 100 calls take no longer
  double gflops = 0;       // hidden pairs are not counted
  double gbps = 0;         // Q, K, V and O once each, and the scales of a cache that has any;
                           // backward, those but the scales, dO, dQ, dK and dV
  double peak_gflops = 0;  // multiply-adds of the operands that are multiplied: pairs of bf16 where
                           // all are bf16, else f32
  double fraction_of_peak = 0;         // of the limit that is nearer: multiply-adds or memory
  std::size_t scratch_bytes = 0;       // the workspace; 0 of other kernels
  std::vector<Simulated> simulated{};  // for each of Settings::simulated_threads
  std::string path;                    // the plan's description
};

/// Throws attn::Error if the output is wrong in a sample of rows, or a gradient in a sample of rows
/// and keys.
Result measure(const Case& shape, const Settings& settings, const Peak& peak);

}  // namespace attn::apps::bench
