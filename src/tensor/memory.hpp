// Memory for tensors and for scratch.
#pragma once

#include <cstddef>

namespace attn::detail {

/// Uninitialized memory, aligned to a cache line. Large blocks are placed on huge pages where the
/// system provides them on request: with pages of 4 KiB, a pass over a large block spends more time
/// on address translation than on the data, most of all in a virtual machine. Throws
/// std::bad_alloc.
void* allocate(std::size_t size_in_bytes);
void release(void* memory) noexcept;

inline constexpr std::size_t memory_alignment = 64;

}  // namespace attn::detail
