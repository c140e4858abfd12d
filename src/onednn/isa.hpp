// Whether oneDNN is there, and what it reports about itself and the processor.
#pragma once

#include <attn/isa.hpp>

#include <string>

namespace attn::onednn {

/// Whether this build has oneDNN (ATTN_WITH_ONEDNN). Without it, everything in this folder that
/// multiplies or computes throws Error(unsupported), and callers take the library's own kernels.
bool available() noexcept;

/// Whether oneDNN's kernels may use this instruction set here. The processor and the environment
/// variable ONEDNN_MAX_CPU_ISA limit it. Always true for Isa::baseline, and in a build without
/// oneDNN.
bool may_use(Isa isa);

/// Whether a set of features, as dnnl_cpu_isa_t counts them, has the matrix unit that multiplies
/// bf16 (AMX), for which the library has no kernels of its own.
bool contains_amx(unsigned features) noexcept;
/// Whether oneDNN's kernels may use it here.
bool has_amx();

/// The version of the library that is loaded: "2.6.3". Empty in a build without oneDNN.
std::string version();

}  // namespace attn::onednn
