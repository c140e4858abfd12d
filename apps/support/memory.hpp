// Available memory, and refusing calls that do not fit into it.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

namespace attn::apps {

/// Bytes that this process can still allocate: the system's available memory, or the limit of its
/// control group if that is lower.
double available_memory();

/// The product of the extents of a tensor, without overflow.
double product_of(std::initializer_list<std::int64_t> extents);

/// Throws Error(invalid_argument), "`what` needs about 12 GiB of memory; 3.4 GiB are available",
/// so that a call that is too large is refused before the system kills the process.
void require_memory(const std::string& what, double bytes);

}  // namespace attn::apps
