// Difficult sizes, with no other option than a causal mask: 1, primes, and all remainders around
// the rows of a register tile (6), vectors and panels (16, 64), blocks of rows (96, 192) and of
// keys (64 to 512). In f32, and in bf16, which may be multiplied in pairs.
#include <doctest/doctest.h>

#include <initializer_list>

#include "support/check.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr std::initializer_list<std::int64_t> lengths = {
    1,  2,  3,  5,  6,  7,  11,  12,  13,  15,  16,  17,  31,  32,  33, 47,
    63, 64, 65, 95, 96, 97, 127, 128, 129, 191, 192, 193, 255, 256, 257};
constexpr std::initializer_list<std::int64_t> head_dims = {
    1,  2,  3,  4,  5,  7,  8,  9,  12, 15, 16,  17,  24,  31,  32,  33,  40, 47,
    48, 49, 63, 64, 65, 72, 80, 95, 96, 97, 127, 128, 129, 160, 255, 256, 257};

void check_types(Case c) {
  check_case(c);
  c.q_type = c.kv_type = DType::bf16;
  check_case(c);
}

void check_plain_and_causal(Case c) {
  check_types(c);
  c.options.causal = Causal::bottom_right();
  check_types(c);
}

}  // namespace

TEST_CASE("q_len") {
  for (const std::int64_t q_len : lengths)
    check_plain_and_causal({.num_q_heads = 2, .q_len = q_len, .kv_len = 70, .head_dim = 16});
}

TEST_CASE("kv_len") {
  for (const std::int64_t kv_len : lengths)
    check_plain_and_causal({.num_q_heads = 2, .q_len = 13, .kv_len = kv_len, .head_dim = 16});
}

TEST_CASE("equal q_len and kv_len") {
  for (const std::int64_t length : lengths)
    check_plain_and_causal({.q_len = length, .kv_len = length, .head_dim = 24});
}

TEST_CASE("kv_len around the largest block of keys") {
  for (const std::int64_t kv_len : {511, 512, 513, 1023, 1025}) {
    check_plain_and_causal({.q_len = 9, .kv_len = kv_len, .head_dim = 16});
    check_plain_and_causal({.q_len = 9, .kv_len = kv_len, .head_dim = 64});
  }
}

TEST_CASE("One long head") {
  check_plain_and_causal({.q_len = 600, .kv_len = 600, .head_dim = 64});
}

TEST_CASE("head_dim") {
  for (const std::int64_t head_dim : head_dims)
    check_types({.q_len = 8, .kv_len = 67, .head_dim = head_dim, .v_head_dim = 16});
}

TEST_CASE("v_head_dim") {
  for (const std::int64_t v_head_dim : head_dims)
    check_types({.q_len = 8, .kv_len = 67, .head_dim = 16, .v_head_dim = v_head_dim});
}

TEST_CASE("equal head_dim and v_head_dim") {
  for (const std::int64_t head_dim : head_dims)
    check_plain_and_causal({.q_len = 14, .kv_len = 131, .head_dim = head_dim});
}

TEST_CASE("One query, as in decoding") {
  for (const std::int64_t kv_len : lengths) {
    check_types(
        {.batch = 2, .num_q_heads = 4, .num_kv_heads = 2, .kv_len = kv_len, .head_dim = 40});
  }
}

TEST_CASE("Heads share keys and values") {
  for (const std::int64_t num_kv_heads : {1, 2, 3}) {
    for (const std::int64_t group_size : {1, 2, 3, 5, 6, 7, 8, 16}) {
      for (const std::int64_t q_len : {1, 5, 40}) {
        check_plain_and_causal({.batch = 2,
                                .num_q_heads = num_kv_heads * group_size,
                                .num_kv_heads = num_kv_heads,
                                .q_len = q_len,
                                .kv_len = 37,
                                .head_dim = 8});
      }
    }
  }
}

TEST_CASE("Length 0") {
  const Case usual{.batch = 2, .num_q_heads = 2, .num_kv_heads = 2, .q_len = 5, .kv_len = 7};
  for (std::int64_t Case::*length : {&Case::batch, &Case::q_len, &Case::kv_len}) {
    Case c = usual;
    c.*length = 0;
    check_plain_and_causal(c);
    c.sinks = c.alibi = true;
    check_plain_and_causal(c);
  }
}

TEST_CASE("Length 0 with heads enough for all threads") {
  check_plain_and_causal({.batch = 8,
                          .num_q_heads = 8,
                          .num_kv_heads = 8,
                          .q_len = 0,
                          .kv_len = 7,
                          .execution = {.num_threads = 2}});
  check_plain_and_causal({.batch = 8,
                          .num_q_heads = 8,
                          .num_kv_heads = 8,
                          .q_len = 7,
                          .kv_len = 0,
                          .execution = {.num_threads = 2}});
}

TEST_CASE("Length 0 with masks and lengths") {
  Case c{.batch = 2, .q_len = 3, .kv_len = 0, .kv_lens = {0, 0}};
  check_types(c);
  c.mask = {.shape = {3, 0}};
  check_types(c);
  c.mask = {.shape = {3, 1}};
  check_types(c);
}
