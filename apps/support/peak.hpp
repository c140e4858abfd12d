// The measured peak performance of this machine, which benchmarks compare their figures with.
#pragma once

#include <attn/isa.hpp>

#include <cstddef>

namespace attn::apps {

/// Bytes that are read to measure read_gbps; far more than the caches hold.
inline constexpr std::size_t read_size = std::size_t{256} << 20;

struct Peak {
  double multiply_add_gflops;  // f32, in the given instruction set's vectors
  double bf16_gflops;  // bf16 pairs into f32; as f32 where the processor has no such instruction
  double read_gbps;    // from memory, beyond the caches
};

Peak measure_peak(Isa isa, int num_threads);

/// Bytes read plus bytes written per second, by a copy that is larger than the caches. It uses
/// stores that bypass the caches if the processor has them.
double measure_copy_gbps(int num_threads);

}  // namespace attn::apps
