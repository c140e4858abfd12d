// The frequencies of rotary position embedding, for code that rotates by angles of its own.
#pragma once

#include <attn/rope.hpp>

#include <cstdint>
#include <span>

namespace attn::detail {

/// Whether the frequencies depend on the length of the sequence.
bool depends_on_length(const RopeSettings& settings) noexcept;

/// The number of rotated pairs. Throws Error(invalid_argument) for settings that give none.
std::int64_t rope_pairs(const RopeSettings& settings, std::int64_t head_dim);

/// rope_frequencies() into `frequencies` [rope_pairs]. The settings have been checked by
/// rope_pairs().
void fill_rope_frequencies(const RopeSettings& settings, std::int64_t length,
                           std::span<double> frequencies);

/// The cosines and sines of one position, each [frequencies.size()].
struct RopeRow {
  float* cos;
  float* sin;
};
void fill_rope_row(std::span<const double> frequencies, double attention_factor,
                   std::int64_t position, const RopeRow& row);

}  // namespace attn::detail
