// Random combinations of all options of a backward call.
#pragma once

#include <cstdint>

#include "support/backward_case.hpp"
#include "support/block_masks.hpp"
#include "support/random_case.hpp"

namespace attn::test {

inline void choose_backward_sizes(Random& random, Case& c) {
  c.batch = random.integer(1, 3);
  c.num_kv_heads = random.integer(1, 2);
  c.num_q_heads = c.num_kv_heads * random.pick<std::int64_t>({1, 1, 2, 3, 5});
  const auto length = [&] {
    return random.chance(0.1) ? random.integer(90, 270) : random.integer(1, 50);
  };
  c.q_len = length();
  c.kv_len = length();
  const auto dim = [&] {
    return random.chance(0.1) ? random.integer(65, 140) : random.integer(1, 40);
  };
  c.head_dim = dim();
  if (random.chance(0.5)) c.v_head_dim = dim();
  c.layout = random.pick({Layout::bhsd, Layout::bhsd, Layout::bshd, Layout::padded,
                          Layout::strided_dim, Layout::reversed});
}

inline BackwardCase random_backward_case(std::uint64_t seed) {
  Random random(seed);
  BackwardCase c{.call = {.seed = seed}};
  choose_backward_sizes(random, c.call);
  choose_types(random, c.call);
  if (c.call.kv_type == DType::i8) c.call.kv_type = DType::f32;
  choose_options(random, c.call);
  if (c.call.options.score_mod)
    random.chance(0.5) ? set_affine_score_mod(c.call.options)
                       : set_curved_score_mod(c.call.options);
  choose_side_tensors(random, c.call);
  choose_normalizer(random, c.call);
  const auto type = [&] { return random.pick({DType::f32, DType::f32, DType::bf16, DType::f16}); };
  const bool all_bf16 = c.call.q_type == DType::bf16 && c.call.kv_type == DType::bf16;
  c.dout_type = all_bf16 ? DType::bf16 : type();
  c.dq_type = type();
  c.dk_type = type();
  c.dv_type = type();
  c.dlse = random.chance(0.5);
  for (const Gradient gradient : all_gradients) {
    if (random.chance(0.1)) c.left_out.push_back(gradient);
  }
  choose_block_mask(random, c.call);
  return c;
}

}  // namespace attn::test
