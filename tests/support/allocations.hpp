// Counts memory taken anywhere in the program, by any thread.
#pragma once

#include <cstdint>

namespace attn::test {

/// Calls of operator new so far, and of malloc and its family where those can be counted.
std::int64_t allocations() noexcept;

}  // namespace attn::test
