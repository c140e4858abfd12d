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

/// Whether a limit is set to the memory that this process may map (ulimit -v, ulimit -d), so that
/// libraries which do not expect that memory can run out need to be kept from running into it.
bool address_space_is_limited() noexcept;
/// Whether so much new memory can be mapped now, as far as such limits are concerned.
bool can_map(std::size_t size_in_bytes) noexcept;

inline constexpr std::size_t memory_alignment = 64;

}  // namespace attn::detail
