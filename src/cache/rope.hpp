// Rotary position embedding of one row.
#pragma once

#include <attn/kv_cache.hpp>

#include <cstdint>

namespace attn {

/// Throws Error(invalid_argument) unless the tables turn rows of head_dim elements at the positions 0..positions - 1.
void check_rope(const Rope& rope, std::int64_t head_dim, std::int64_t positions);

/// Turns a row in place; elements from the rotary dim on stay as they are.
void rotate(const Rope& rope, std::int64_t position, float* row) noexcept;

}  // namespace attn
