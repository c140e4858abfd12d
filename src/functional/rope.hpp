// Rotary position embedding of one row.
#pragma once

#include <attn/rope.hpp>

#include <cstdint>

#include "kernels/kernels.hpp"

namespace attn::detail {

/// Throws Error(invalid_argument) unless the tables, `name`.cos and `name`.sin, have a row for each
/// position and turn rows of head_dim elements at the positions 0..positions - 1.
void check_rope(const char* name, const Rope& rope, std::int64_t head_dim, std::int64_t positions);

/// Turns a row in place; elements from the rotary dim on stay as they are.
void rotate(const Rope& rope, std::int64_t position, const kernels::Kernels& kernels,
            float* row) noexcept;

}  // namespace attn::detail
