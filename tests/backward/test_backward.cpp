// The engine's gradients against the reference: random calls with every option, and sizes and
// layouts that are easy to get wrong.
#include <attn/attention_backward.hpp>

#include <doctest/doctest.h>

#include <array>
#include <string>
#include <vector>

#include "support/backward_check.hpp"
#include "support/random_backward_case.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// A call of some size with what most calls have.
BackwardCase sized(std::int64_t q_len, std::int64_t kv_len) {
  return {.call = {.num_q_heads = 2,
                   .q_len = q_len,
                   .kv_len = kv_len,
                   .head_dim = 16,
                   .seed = static_cast<std::uint64_t>(1000 * q_len + kv_len)}};
}

}  // namespace

TEST_CASE("Random combinations of all options") {
  for (const std::uint64_t seed : seeds(1, 200)) check_backward(random_backward_case(seed));
}

TEST_CASE("Lengths around tiles and blocks, with and without a causal mask") {
  const std::vector<std::int64_t> lengths = {1,  2,  5,  6,  7,   13,  63, 64,
                                             65, 95, 96, 97, 127, 128, 129};
  for (std::size_t n = 0; n < lengths.size(); ++n) {
    // Each length meets a shorter one and a longer one on both sides.
    for (const std::size_t other :
         {n, (n * 7 + 3) % lengths.size(), (n * 4 + 11) % lengths.size()}) {
      BackwardCase c = sized(lengths[n], lengths[other]);
      check_backward(c);
      c.call.options.causal = Causal::bottom_right();
      check_backward(c);
    }
  }
}

TEST_CASE("Every small width of heads, and widths around vectors") {
  for (const std::int64_t width :
       {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 128, 200, 256}) {
    BackwardCase c = sized(9, 21);
    c.call.head_dim = width;
    c.call.v_head_dim = width % 5 == 0 ? width : 257 - width;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      c.call.q_type = c.call.kv_type = c.dout_type = dtype;
      check_backward(c);
    }
  }
}

TEST_CASE("Types of every tensor") {
  const auto types = {DType::f32, DType::bf16, DType::f16};
  for (const DType q : types) {
    for (const DType kv : types) {
      for (const DType dout : types) {
        BackwardCase c = sized(11, 70);
        c.call.q_type = q;
        c.call.kv_type = kv;
        c.call.out_type = c.dout_type = dout;
        c.dq_type = kv;
        c.dk_type = dout;
        c.dv_type = q;
        check_backward(c);
      }
    }
  }
}

TEST_CASE("Several columns of keys and blocks of rows, with every feature of scores") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    BackwardCase c = sized(300, 700);
    Case& call = c.call;
    call.batch = 2;
    call.q_type = call.kv_type = c.dout_type = dtype;
    call.options.softcap = 5.f;
    call.options.causal = Causal::bottom_right();
    call.options.window = Window{350, {}};
    call.mask = {.dtype = DType::f32, .shape = {2, 1, 300, 700}, .hidden = 0.1};
    call.alibi = call.sinks = true;
    call.kv_lens = {700, 400};
    check_backward(c);
  }
}

TEST_CASE("Calls without rows, keys, heads or batch entries") {
  for (const auto& [batch, heads, q_len, kv_len] : std::vector<std::array<std::int64_t, 4>>{
           {1, 2, 0, 5}, {1, 2, 5, 0}, {0, 2, 5, 5}, {1, 0, 5, 5}, {1, 2, 0, 0}}) {
    BackwardCase c = sized(q_len, kv_len);
    c.call.batch = batch;
    c.call.num_q_heads = c.call.num_kv_heads = heads;
    c.call.alibi = c.call.sinks = true;
    check_backward(c);
  }
}
