// Runs a model with each attention kernel, and measures errors, times and memory.
#pragma once

#include <attn/attn.hpp>

#include <cstdint>
#include <vector>

#include "apps/attn_demo/models/model.hpp"
#include "oracle/errors.hpp"

namespace attn::apps::demo {

using attn::detail::Errors;

struct LayersRun {
  std::int64_t seq = 256;
  std::int64_t batch = 1;
  double min_time = 0.5;  // seconds of measuring prefill, and as many of decode

  static constexpr std::int64_t decode_steps = 32;  // then the cache is truncated to the prompt
  std::int64_t positions() const noexcept { return seq + decode_steps; }
};

/// The difference of the residual stream after a layer from that of naive attention in all layers.
struct LayerDistance {
  Errors tiled, unfused;
  double rms;  // RMS of the residual stream itself
};

/// The forward pass of median duration among several.
struct Phase {
  double seconds = 0;
  double tokens_per_second = 0;
  ForwardTimes times{};
};

struct LayersMeasured {
  std::vector<LayerDistance> layers;
  Phase prefill, decode;
  double unfused_seconds = 0, naive_seconds = 0;  // one prefill each
  // Floating-point operations of projections, MLPs and visible pairs of attention.
  double prefill_gflops = 0, peak_gflops = 0;
  double decode_bytes = 0, decode_gbps = 0, read_gbps = 0;
  double packed_bytes = 0, in_place_bytes = 0, cache_bytes = 0, activation_bytes = 0;
  int num_threads = 1;
  Isa isa = Isa::baseline;
};

/// Throws attn::Error if the run does not fit into memory.
LayersMeasured measure_layers(Model& model, const LayersRun& run);

double seconds(ForwardTimes::Duration duration);

}  // namespace attn::apps::demo
