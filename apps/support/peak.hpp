// What this machine can do at most, measured: the roofs that a benchmark's figures are held
// against.
#pragma once

#include <attn/isa.hpp>

#include <cstddef>

namespace attn::apps {

/// Memory that is read to measure read_gbps, far more than any cache has for two or three cores.
inline constexpr std::size_t read_size = std::size_t{256} << 20;

struct Peak {
  double multiply_add_gflops;  // f32, in the given instruction set's vectors
  double bf16_gflops;  // bf16 pairs into f32; as f32 where the processor has no such instruction
  double read_gbps;    // from memory, beyond the caches
};

Peak measure_peak(Isa isa, int num_threads);

/// Bytes read plus bytes written a second by a copy within memory beyond the caches, whose writes
/// go past them where the processor can.
double measure_copy_gbps(int num_threads);

}  // namespace attn::apps
