// Memory of tensors and of scratch.
#pragma once

#include <cstddef>

namespace attn::detail {

/// Uninitialized, aligned to a cache line. Large pieces lie on huge pages where the system gives
/// them on request: a pass over 4 KiB pages spends more time on looking up addresses than on the
/// data, above all in a virtual machine. Throws std::bad_alloc.
void* allocate(std::size_t size_in_bytes);
void release(void* memory) noexcept;

inline constexpr std::size_t memory_alignment = 64;

}  // namespace attn::detail
