// How much memory there is.
#pragma once

namespace attn::demo {

/// Bytes that this process can take before the system has to stop it.
double available_memory();

}  // namespace attn::demo
