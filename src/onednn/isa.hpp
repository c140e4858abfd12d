// What oneDNN reports about itself and the processor.
#pragma once

#include <attn/isa.hpp>

#include <string>

namespace attn::onednn {

/// Whether oneDNN's kernels may use this instruction set here. The processor and the environment
/// variable ONEDNN_MAX_CPU_ISA limit it. Always true for Isa::baseline.
bool may_use(Isa isa);

/// The version of the library that is loaded: "2.6.3".
std::string version();

}  // namespace attn::onednn
