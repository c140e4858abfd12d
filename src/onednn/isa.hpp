// What oneDNN says of itself and of the processor.
#pragma once

#include <attn/isa.hpp>

#include <string>

namespace attn::onednn {

/// The strongest of our instruction sets that oneDNN's kernels use here. ONEDNN_MAX_CPU_ISA bounds
/// it.
Isa effective_isa();

/// Of the library that is loaded: "2.6.3".
std::string version();

}  // namespace attn::onednn
