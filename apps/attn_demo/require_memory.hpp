// Refusals of what would not fit into memory.
#pragma once

#include <string>

namespace attn::demo {

/// Throws Error(invalid_argument), "`what` needs about 12 GiB of memory; 3.4 GiB are available",
/// before the system has to stop this process.
void require_memory(const std::string& what, double bytes);

}  // namespace attn::demo
