// Philox4x32-10, a counter-based random number generator (Salmon, Moraes, Dror and Shaw 2011,
// doi:10.1145/2063384.2063405). A block of four random words is a function of a counter and a key,
// so any draw can be computed without the draws before it.
#pragma once

#include <array>
#include <cstdint>

namespace attn::detail {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

constexpr PhiloxCounter philox(PhiloxCounter counter, PhiloxKey key) noexcept {
  constexpr int rounds = 10;
  constexpr std::uint64_t multiplier_0 = 0xd2511f53, multiplier_1 = 0xcd9e8d57;
  constexpr std::uint32_t step_0 = 0x9e3779b9, step_1 = 0xbb67ae85;
  const auto high = [](std::uint64_t product) { return static_cast<std::uint32_t>(product >> 32); };
  const auto low = [](std::uint64_t product) { return static_cast<std::uint32_t>(product); };
  for (int round = 0; round < rounds; ++round) {
    const std::uint64_t product_0 = multiplier_0 * counter[0],
                        product_1 = multiplier_1 * counter[2];
    counter = {high(product_1) ^ counter[1] ^ key[0], low(product_1),
               high(product_0) ^ counter[3] ^ key[1], low(product_0)};
    key = {key[0] + step_0, key[1] + step_1};
  }
  return counter;
}

/// A multiple of 2^-53 in [0, 1): the upper 53 bits of the first two words, low word first, of the
/// block for key `seed` and counter (draw, row), whose 64-bit halves are also given low word first.
constexpr double philox_uniform(std::uint64_t seed, std::uint64_t draw,
                                std::uint64_t row) noexcept {
  const auto low = [](std::uint64_t bits) { return static_cast<std::uint32_t>(bits); };
  const auto high = [](std::uint64_t bits) { return static_cast<std::uint32_t>(bits >> 32); };
  const PhiloxCounter words =
      philox({low(draw), high(draw), low(row), high(row)}, {low(seed), high(seed)});
  return static_cast<double>((static_cast<std::uint64_t>(words[1]) << 32 | words[0]) >> 11) *
         0x1p-53;
}

}  // namespace attn::detail
