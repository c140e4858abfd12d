// Caches by the C interface: the same keys and bits as those of the C++ library.
#include <attn/attn.h>
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "support/c_calls.hpp"
#include "support/cache_model.hpp"
#include "support/random.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr std::int64_t num_q_heads = 4, num_kv_heads = 2, head_dim = 16, v_head_dim = 8;

struct Keys {
  Keys(Random& random, std::optional<std::int64_t> batch, std::int64_t count)
      : k(random_rows(random, shape(batch, count, head_dim))),
        v(random_rows(random, shape(batch, count, v_head_dim))),
        c_k(c_tensor(k.view())),
        c_v(c_tensor(v.view())) {}
  static Dims shape(std::optional<std::int64_t> batch, std::int64_t count, std::int64_t dim) {
    return batch ? Dims{*batch, num_kv_heads, count, dim} : Dims{num_kv_heads, count, dim};
  }

  StridedTensor k, v;
  attn_tensor c_k, c_v;
};

struct Queries {
  Queries(Random& random, std::int64_t batch, std::int64_t q_len)
      : q(random_rows(random, {batch, num_q_heads, q_len, head_dim})),
        wanted(DType::f32, {batch, num_q_heads, q_len, v_head_dim}),
        got(DType::f32, {batch, num_q_heads, q_len, v_head_dim}) {}
  AttentionTensors for_cpp() { return {.q = q.view(), .out = wanted.view()}; }
  CArguments for_c() { return CArguments(AttentionTensors{.q = q.view(), .out = got.view()}); }
  void check() const { CHECK(got.bits() == wanted.bits()); }

  StridedTensor q, wanted, got;
};

void set_options(attn_cache_options* options, attn_dtype dtype, attn_cache_layout layout,
                 bool rolling) {
  REQUIRE_OK(attn_cache_options_set_v_head_dim(options, v_head_dim));
  REQUIRE_OK(attn_cache_options_set_dtype(options, dtype));
  REQUIRE_OK(attn_cache_options_set_layout(options, layout));
  REQUIRE_OK(attn_cache_options_set_rolling(options, rolling ? 1 : 0));
}

/// A plan on what the cache lends, for the same queries.
template <class Lend>
void check_plan(Queries& queries, const attn_options* options, const Lend& lend) {
  CArguments arguments = queries.for_c();
  std::vector<attn_argument> all(arguments.data(), arguments.data() + arguments.size());
  attn_tensor lent[7];
  std::size_t count = 0;
  for (const attn_role role : {ATTN_ARG_K, ATTN_ARG_V, ATTN_ARG_KV_LENS, ATTN_ARG_RING_STARTS,
                               ATTN_ARG_PAGE_TABLE, ATTN_ARG_K_SCALES, ATTN_ARG_V_SCALES}) {
    REQUIRE_OK(lend(role, &lent[count]));
    all.push_back({role, &lent[count++]});
  }
  const auto num_arguments = static_cast<std::int64_t>(all.size());
  CPlan plan;
  REQUIRE_OK(attn_plan_create(plan.out(), all.data(), num_arguments, options, NULL));
  std::int64_t bytes = 0;
  REQUIRE_OK(attn_plan_workspace_size(plan, &bytes));
  std::vector<std::byte> workspace(static_cast<std::size_t>(bytes));
  std::memset(queries.got.view().data, 0, 4);
  REQUIRE_OK(attn_plan_run(plan, all.data(), num_arguments, workspace.data(), bytes));
  queries.check();
}

std::int64_t length_of(const attn_kv_cache* cache, std::int64_t sequence) {
  std::int64_t length = -1;
  REQUIRE_OK(attn_kv_cache_length(cache, sequence, &length));
  return length;
}

std::int64_t length_of(const attn_paged_kv_cache* cache, std::int64_t sequence) {
  std::int64_t length = -1;
  REQUIRE_OK(attn_paged_kv_cache_length(cache, sequence, &length));
  return length;
}

constexpr std::pair<attn_dtype, DType> types[] = {
    {ATTN_F32, DType::f32}, {ATTN_BF16, DType::bf16}, {ATTN_F16, DType::f16}, {ATTN_I8, DType::i8}};

}  // namespace

TEST_CASE("Contiguous and rolling caches of every type") {
  Random random(1);
  const AttentionOptions causal{.causal = Causal::bottom_right()};
  COptions options;
  REQUIRE_OK(attn_options_create(options.out()));
  REQUIRE_OK(attn_options_set_causal(options, 1));
  for (const auto& [c_type, type] : types) {
    for (const bool rolling : {false, true}) {
      KvCache wanted({.batch = 2,
                      .num_kv_heads = num_kv_heads,
                      .capacity = 12,
                      .head_dim = head_dim,
                      .v_head_dim = v_head_dim,
                      .dtype = type,
                      .layout = CacheLayout::bshd,
                      .rolling = rolling});
      CCacheOptions cache_options;
      REQUIRE_OK(attn_cache_options_create(cache_options.out()));
      set_options(cache_options, c_type, ATTN_CACHE_BSHD, rolling);
      CKvCache cache;
      REQUIRE_OK(attn_kv_cache_create(cache.out(), 2, num_kv_heads, 12, head_dim, cache_options));
      std::int64_t bytes = 0;
      REQUIRE_OK(attn_kv_cache_size(cache, &bytes));
      CHECK(bytes == static_cast<std::int64_t>(wanted.size_in_bytes()));

      const RandomRopeTables tables(random, 40, head_dim / 2, true, Layout::padded);
      const attn_tensor cos = c_tensor(tables.cos.view()), sin = c_tensor(tables.sin.view());
      const attn_rope_tables rope{&cos, &sin, 1};
      for (int step = 0; step < (rolling ? 5 : 2); ++step) {
        const Keys all(random, 2, 4), one(random, {}, 1);
        wanted.append(all.k.view(), all.v.view(), tables.rope());
        REQUIRE_OK(attn_kv_cache_append(cache, &all.c_k, &all.c_v, &rope));
        wanted.append_to(1, one.k.view(), one.v.view());
        REQUIRE_OK(attn_kv_cache_append_to(cache, 1, &one.c_k, &one.c_v, NULL));
        CHECK(length_of(cache, 1) == wanted.length(1));
        std::int64_t position = -1;
        REQUIRE_OK(attn_kv_cache_position(cache, 1, &position));
        CHECK(position == wanted.position(1));

        Queries queries(random, 2, 1);
        attention(wanted.bind(queries.for_cpp()), causal);
        const CArguments arguments = queries.for_c();
        REQUIRE_OK(
            attn_kv_cache_attention(cache, arguments.data(), arguments.size(), options, NULL));
        queries.check();
        check_plan(queries, options, [&](attn_role role, attn_tensor* tensor) {
          return attn_kv_cache_tensor(cache, role, tensor);
        });
      }
      if (!rolling) {
        const Keys many(random, 2, 4);
        CHECK(attn_kv_cache_append(cache, &many.c_k, &many.c_v, NULL) == ATTN_EXHAUSTED);
        CHECK(length_of(cache, 0) == 8);
      }
      wanted.truncate(1, wanted.position(1) - 1);
      REQUIRE_OK(attn_kv_cache_truncate(cache, 1, wanted.position(1)));
      CHECK(length_of(cache, 1) == wanted.length(1));
      REQUIRE_OK(attn_kv_cache_clear(cache));
      CHECK(length_of(cache, 1) == 0);
    }
  }
}

TEST_CASE("Paged caches of every type") {
  Random random(2);
  for (const auto& [c_type, type] : types) {
    PagedKvCache wanted({.num_pages = 12,
                         .page_size = 4,
                         .num_kv_heads = num_kv_heads,
                         .head_dim = head_dim,
                         .v_head_dim = v_head_dim,
                         .dtype = type});
    CCacheOptions cache_options;
    REQUIRE_OK(attn_cache_options_create(cache_options.out()));
    set_options(cache_options, c_type, ATTN_CACHE_BHSD, false);
    CPagedKvCache cache;
    REQUIRE_OK(
        attn_paged_kv_cache_create(cache.out(), 12, 4, num_kv_heads, head_dim, cache_options));
    std::int64_t bytes = 0, free_pages = 0, sequence = -1, fork = -1;
    REQUIRE_OK(attn_paged_kv_cache_size(cache, &bytes));
    CHECK(bytes == static_cast<std::int64_t>(wanted.size_in_bytes()));

    REQUIRE_OK(attn_paged_kv_cache_create_sequence(cache, &sequence));
    CHECK(sequence == wanted.create());
    const Keys prompt(random, {}, 10);
    wanted.append(sequence, prompt.k.view(), prompt.v.view());
    REQUIRE_OK(attn_paged_kv_cache_append(cache, sequence, &prompt.c_k, &prompt.c_v, NULL));
    REQUIRE_OK(attn_paged_kv_cache_fork(cache, sequence, &fork));
    CHECK(fork == wanted.fork(sequence));
    const Keys more(random, {}, 3);
    wanted.append(fork, more.k.view(), more.v.view());
    REQUIRE_OK(attn_paged_kv_cache_append(cache, fork, &more.c_k, &more.c_v, NULL));
    wanted.truncate(sequence, 5);
    REQUIRE_OK(attn_paged_kv_cache_truncate(cache, sequence, 5));
    CHECK(length_of(cache, sequence) == 5);
    CHECK(length_of(cache, fork) == 13);
    REQUIRE_OK(attn_paged_kv_cache_free_pages(cache, &free_pages));
    CHECK(free_pages == wanted.free_pages());

    const std::int64_t batch[] = {fork, sequence, fork};
    Queries queries(random, 3, 2);
    attention(wanted.bind(queries.for_cpp(), batch));
    const CArguments arguments = queries.for_c();
    REQUIRE_OK(attn_paged_kv_cache_attention(cache, batch, 3, arguments.data(), arguments.size(),
                                             NULL, NULL));
    queries.check();

    attn_tensor tensor;
    CHECK(attn_paged_kv_cache_tensor(cache, ATTN_ARG_K, &tensor) == ATTN_INVALID_ARGUMENT);
    REQUIRE_OK(attn_paged_kv_cache_bind(cache, batch, 3));
    check_plan(queries, NULL, [&](attn_role role, attn_tensor* to) {
      return attn_paged_kv_cache_tensor(cache, role, to);
    });
    const Keys many(random, {}, 40);
    CHECK(attn_paged_kv_cache_append(cache, fork, &many.c_k, &many.c_v, NULL) == ATTN_EXHAUSTED);
    CHECK(std::string(attn_last_error()).find("pages") != std::string::npos);
    REQUIRE_OK(attn_paged_kv_cache_tensor(cache, ATTN_ARG_K, &tensor));  // nothing has changed
    REQUIRE_OK(attn_paged_kv_cache_remove(cache, sequence));
    CHECK(attn_paged_kv_cache_tensor(cache, ATTN_ARG_K, &tensor) == ATTN_INVALID_ARGUMENT);
    CHECK(attn_paged_kv_cache_remove(cache, sequence) == ATTN_INVALID_ARGUMENT);
  }
}

TEST_CASE("What a cache has cannot be given to a call on it") {
  CKvCache cache;
  REQUIRE_OK(attn_kv_cache_create(cache.out(), 1, 1, 4, 8, NULL));
  Tensor q(DType::f32, {1, 1, 1, 8}), out(DType::f32, {1, 1, 1, 8});
  AttentionTensors tensors{.q = q.view(), .out = out.view(), .kv_lens = q.view()};
  const CArguments arguments(tensors);
  CHECK(attn_kv_cache_attention(cache, arguments.data(), arguments.size(), NULL, NULL) ==
        ATTN_INVALID_ARGUMENT);
  CHECK(std::string(attn_last_error()) == "kv_lens is given, but the cache has its own");
  attn_tensor tensor;
  REQUIRE_OK(attn_kv_cache_tensor(cache, ATTN_ARG_PAGE_TABLE, &tensor));
  CHECK((tensor.data == nullptr && tensor.rank == 0));
  CHECK(attn_kv_cache_tensor(cache, ATTN_ARG_Q, &tensor) == ATTN_INVALID_ARGUMENT);

  CCacheOptions options;
  REQUIRE_OK(attn_cache_options_create(options.out()));
  REQUIRE_OK(attn_cache_options_set_rolling(options, 1));
  CPagedKvCache paged;
  CHECK(attn_paged_kv_cache_create(paged.out(), 1, 1, 1, 1, options) == ATTN_INVALID_ARGUMENT);
}
