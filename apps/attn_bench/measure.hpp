// One shape: made, verified, timed.
#pragma once

#include <attn/attn.hpp>

#include <cstdint>
#include <string>

#include "peak.hpp"

namespace attn::bench {

enum class Kernel { tiled, unfused, naive };

struct Case {
  std::string name;
  std::int64_t batch, num_q_heads, num_kv_heads, q_len, kv_len, head_dim, v_head_dim;
  bool causal = false;
  DType dtype = DType::f32;
  Kernel kernel = Kernel::tiled;
};

struct Settings {
  int num_threads = 1;
  double min_time = 0.3;  // seconds
  Isa isa = Isa::baseline;
};

struct Result {
  double median_ms = 0;
  double min_ms = 0;
  double gflops = 0;  // of useful work: hidden pairs do not count
  double gbps = 0;    // Q, K, V and O once each
  double peak_gflops = 0;       // multiply-adds of the operands that are multiplied: f32, or pairs of bf16
  double fraction_of_peak = 0;  // of the nearer roof: multiply-adds or memory
  std::string path;             // the way taken, in words
};

/// Throws attn::Error if the output is wrong on a sample of rows.
Result measure(const Case& shape, const Settings& settings, const Peak& peak);

}  // namespace attn::bench
