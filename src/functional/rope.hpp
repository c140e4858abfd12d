// Rotary position embedding of one row.
#pragma once

#include <attn/rope.hpp>

#include <cstdint>

#include "kernels/kernels.hpp"

namespace attn::detail {

/// Throws Error(invalid_argument) unless the tables, `name`.cos and `name`.sin, can rotate rows of
/// head_dim elements at the positions 0, 1, ..., positions - 1.
void check_rope(const char* name, const Rope& rope, std::int64_t head_dim, std::int64_t positions);

/// Rotates a dense row in place. The elements from rotary_dim on are unchanged.
void rotate(const Rope& rope, std::int64_t position, const kernels::Kernels& kernels,
            float* row) noexcept;

}  // namespace attn::detail
