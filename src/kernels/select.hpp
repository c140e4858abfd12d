// Selects the kernels of an instruction set.
#pragma once

#include <attn/isa.hpp>

#include <vector>

#include "kernels/kernels.hpp"

namespace attn::kernels {

/// Throws Error(unsupported) if this build does not have them or this processor cannot run them.
const Kernels& kernels_for(Isa isa);
/// The instruction sets in this build, from the least to the most preferred, whether or not this
/// processor can run them.
std::vector<Isa> built_isas();

}  // namespace attn::kernels
