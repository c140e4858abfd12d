// Seeds of random tests, and the command that repeats one of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace attn::test {

/// The seeds first, first + 1, ...; every n-th of them if the environment variable ATTN_TEST_EVERY
/// is n; only the seed in ATTN_TEST_SEED if that is set.
std::vector<std::uint64_t> seeds(std::uint64_t first, std::uint64_t count);

/// One line with the command that runs the current test case with this seed alone.
std::string repeat_command(std::uint64_t seed);

}  // namespace attn::test
