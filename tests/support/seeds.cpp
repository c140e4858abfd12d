#include "support/seeds.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

namespace attn::test {

std::vector<std::uint64_t> seeds(std::uint64_t first, std::uint64_t count) {
  if (const char* only = std::getenv("ATTN_TEST_SEED")) return {std::strtoull(only, nullptr, 10)};
  const char* const every = std::getenv("ATTN_TEST_EVERY");
  const std::uint64_t step =
      every != nullptr ? std::max<std::uint64_t>(1, std::strtoull(every, nullptr, 10)) : 1;
  std::vector<std::uint64_t> chosen;
  for (std::uint64_t n = 0; n < count; n += step) chosen.push_back(first + n);
  return chosen;
}

std::string repeat_command(std::uint64_t seed) {
  const doctest::ContextOptions& doctest = *doctest::getContextOptions();
  const char* const bound = std::getenv("ONEDNN_MAX_CPU_ISA");
  const std::string isa = bound == nullptr ? "" : fmt::format("ONEDNN_MAX_CPU_ISA={} ", bound);
  return fmt::format("repeat: {}ATTN_TEST_SEED={} {} --test-case=\"{}\"", isa, seed,
                     doctest.binary_name.c_str(), doctest.currentTest->m_name);
}

}  // namespace attn::test
