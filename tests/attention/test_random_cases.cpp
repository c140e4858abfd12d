// Random combinations of all options. A failure prints the seed and the command that repeats it.
#include <doctest/doctest.h>

#include "support/block_masks.hpp"
#include "support/check.hpp"
#include "support/random_case.hpp"

using namespace attn;
using namespace attn::test;

namespace {

void choose_sizes(Random& random, Case& c) {
  c.batch = random.integer(1, 3);
  c.num_kv_heads = random.integer(1, 3);
  c.num_q_heads = c.num_kv_heads * random.pick<std::int64_t>({1, 1, 2, 3, 4, 7});
  const auto length = [&] {
    return random.chance(0.1) ? random.integer(100, 300) : random.integer(1, 70);
  };
  c.q_len = length();
  c.kv_len = length();
  const auto dim = [&] {
    return random.chance(0.1) ? random.integer(65, 260) : random.integer(1, 64);
  };
  c.head_dim = dim();
  if (random.chance(0.5)) c.v_head_dim = dim();
  c.layout = random.pick({Layout::bhsd, Layout::bhsd, Layout::bshd, Layout::padded,
                          Layout::strided_dim, Layout::reversed});
}

Case random_case(std::uint64_t seed) {
  Random random(seed);
  Case c{.seed = seed};
  choose_sizes(random, c);
  choose_types(random, c);
  choose_options(random, c);
  choose_side_tensors(random, c);
  choose_normalizer(random, c);
  choose_block_mask(random, c);
  return c;
}

}  // namespace

TEST_CASE("Random combinations of all options") {
  for (const std::uint64_t seed : seeds(1, 600)) check_case(random_case(seed));
}
