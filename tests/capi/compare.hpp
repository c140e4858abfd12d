// What tests of calls by the C interface share.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>

#include "support/c_calls.hpp"
#include "support/random_backward_case.hpp"

namespace attn::test {

inline void check_same(const Outputs& got, const Outputs& wanted) {
  CHECK(got.out.bits() == wanted.out.bits());
  CHECK(got.lse.bits() == wanted.lse.bits());
  CHECK(got.out.gaps_untouched());
}

/// A random call without a block mask, which has a handle of its own.
inline BackwardCase case_of(std::uint64_t seed) {
  BackwardCase c = random_backward_case(seed);
  c.call.options.block_mask.reset();
  if (c.call.options.normalizer.kind() == Normalizer::Kind::softmax) c.call.lse = true;
  return c;
}

/// A call, its tensors, and what it has to give.
struct SmallCall {
  explicit SmallCall(const Case& c = {.num_q_heads = 2, .q_len = 9, .kv_len = 37})
      : inputs(make_inputs(c)), outputs(make_outputs(c)), wanted(run(inputs, c)) {}
  CArguments arguments() { return CArguments(bind(inputs, outputs)); }

  Inputs inputs;
  Outputs outputs, wanted;
};

}  // namespace attn::test
