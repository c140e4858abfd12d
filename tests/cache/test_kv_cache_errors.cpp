// What KvCache refuses: settings, keys, rope tables, sequences and positions. The cache stays as it
// was.
#include <attn/error.hpp>
#include <attn/kv_cache.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "support/check_fails.hpp"
#include "support/kv_cache_model.hpp"
#include "support/random.hpp"

using namespace attn;
using namespace attn::test;

namespace {

KvCache::Settings valid_settings() {
  return {.batch = 2, .num_kv_heads = 3, .capacity = 4, .head_dim = 6, .v_head_dim = 5};
}

void check_settings_refused(const std::vector<std::string>& fragments,
                            const std::function<void(KvCache::Settings&)>& change) {
  KvCache::Settings settings = valid_settings();
  change(settings);
  check_fails(ErrorCode::invalid_argument, fragments, [&] { KvCache cache(settings); });
}

/// The arguments of a valid append, to be changed.
struct Append {
  TensorView k, v;
  Rope rope;
};

/// Checks that the changed arguments make append and append_to fail in the same way, and that the
/// cache stays as it was. `change` gets the tensors of append_to, which have no batch.
void check_append_refused(const std::vector<std::string>& fragments,
                          const std::function<void(Append&)>& change) {
  Random random(1);
  KvCache cache(valid_settings());
  const RandomRopeTables tables(random, 4, 2, false, Layout::bhsd);
  const GivenKeys first{random_rows(random, {2, 3, 2, 6}), random_rows(random, {2, 3, 2, 5})};
  cache.append(first.k.view(), first.v.view());
  const std::vector<ModelSequence> model = {{first.stored_in(DType::f32, 0, 0, {})},
                                            {first.stored_in(DType::f32, 1, 0, {})}};

  const GivenKeys second{random_rows(random, {3, 2, 6}), random_rows(random, {3, 2, 5})};
  Append append{second.k.view(), second.v.view(), tables.rope()};
  change(append);
  check_fails(ErrorCode::invalid_argument, fragments,
              [&] { cache.append_to(1, append.k, append.v, append.rope); });
  CHECK(difference(cache, model) == "");
  const auto for_all = [](TensorView tensor) {
    Dims shape{2}, strides{0};
    if (tensor.rank() == 3) {
      shape = {2, tensor.shape[0], tensor.shape[1], tensor.shape[2]};
      strides = {0, tensor.strides[0], tensor.strides[1], tensor.strides[2]};
    }
    return TensorView(tensor.data, tensor.dtype, shape, strides);
  };
  check_fails(ErrorCode::invalid_argument, {fragments[0]},
              [&] { cache.append(for_all(append.k), for_all(append.v), append.rope); });
  CHECK(difference(cache, model) == "");
}

}  // namespace

TEST_CASE("Settings that make no cache are refused") {
  check_settings_refused({"batch is 0"}, [](auto& settings) { settings.batch = 0; });
  check_settings_refused({"num_kv_heads is 0"}, [](auto& settings) { settings.num_kv_heads = 0; });
  check_settings_refused({"capacity is -1"}, [](auto& settings) { settings.capacity = -1; });
  check_settings_refused({"head_dim is 0"}, [](auto& settings) { settings.head_dim = 0; });
  check_settings_refused({"v_head_dim is 0"}, [](auto& settings) { settings.v_head_dim = 0; });
  check_settings_refused({"dtype is f64", "f32, bf16, f16 or i8"},
                         [](auto& settings) { settings.dtype = DType::f64; });
  check_settings_refused({"overflows"},
                         [](auto& settings) { settings.capacity = std::int64_t{1} << 60; });
}

TEST_CASE("Keys and values that do not fit are refused") {
  const auto narrowed = [](TensorView& tensor, int dim) {
    tensor = tensor.sliced(dim, 0, tensor.shape[dim] - 1);
  };
  check_append_refused({"k has shape", "rank"}, [](Append& append) { append.k = {}; });
  check_append_refused({"v has shape", "rank"}, [](Append& append) {
    append.v = {append.v.data, append.v.dtype, {3, 10}};
  });
  check_append_refused({"k has shape", "is 2", "needs 3", "num_kv_heads"},
                       [&](Append& append) { narrowed(append.k, 0); });
  check_append_refused({"v has shape", "is 2", "needs 3", "num_kv_heads"},
                       [&](Append& append) { narrowed(append.v, 0); });
  check_append_refused({"k has shape", "is 5", "needs 6", "head_dim"},
                       [&](Append& append) { narrowed(append.k, 2); });
  check_append_refused({"v has shape", "is 4", "needs 5", "v_head_dim"},
                       [&](Append& append) { narrowed(append.v, 2); });
  check_append_refused({"v has shape", "is 1", "needs 2", "count of k"},
                       [&](Append& append) { narrowed(append.v, 1); });
  check_append_refused({"k has type i8", "f32, bf16 or f16"},
                       [](Append& append) { append.k.dtype = DType::i8; });
  check_append_refused({"v has type f64"}, [](Append& append) { append.v.dtype = DType::f64; });
  check_append_refused({"k of shape", "no data"}, [](Append& append) { append.k.data = nullptr; });
  check_append_refused({"v of shape", "no data"}, [](Append& append) { append.v.data = nullptr; });

  KvCache cache(valid_settings());
  const std::vector<float> rows(200);
  check_fails(ErrorCode::invalid_argument, {"k has shape", "dim 0 is 1", "needs 2", "batch"}, [&] {
    cache.append({rows.data(), {1, 3, 1, 6}}, {rows.data(), {2, 3, 1, 5}});
  });
  check_fails(ErrorCode::invalid_argument, {"v has shape", "dim 0 is 1", "needs 2", "batch"}, [&] {
    cache.append({rows.data(), {2, 3, 1, 6}}, {rows.data(), {1, 3, 1, 5}});
  });
}

TEST_CASE("Tables of rope that do not fit are refused") {
  check_append_refused({"rope.cos", "rank"}, [](Append& append) { append.rope.cos = {}; });
  check_append_refused({"rope.sin", "rank"}, [](Append& append) { append.rope.sin = append.k; });
  check_append_refused({"rope.cos has type bf16", "f32"},
                       [](Append& append) { append.rope.cos.dtype = DType::bf16; });
  check_append_refused({"rope.sin has type f16", "f32"},
                       [](Append& append) { append.rope.sin.dtype = DType::f16; });
  check_append_refused({"rope.cos", "no data"},
                       [](Append& append) { append.rope.cos.data = nullptr; });
  check_append_refused({"rope.sin", "no data"},
                       [](Append& append) { append.rope.sin.data = nullptr; });
  check_append_refused({"rope.sin", "dim 0 is 3", "needs 4"},
                       [](Append& append) { append.rope.sin = append.rope.sin.sliced(0, 0, 3); });
  check_append_refused({"rope.sin", "dim 1 is 1", "needs 2"},
                       [](Append& append) { append.rope.sin = append.rope.sin.sliced(1, 0, 1); });
  check_append_refused({"rope.cos", "dim 0 is 3", "at least 4"}, [](Append& append) {
    append.rope.cos = append.rope.cos.sliced(0, 0, 3);
    append.rope.sin = append.rope.sin.sliced(0, 0, 3);
  });
  check_append_refused({"rope.cos", "dim 1 is 4", "at most 3", "head_dim = 6"}, [](Append& append) {
    append.rope.cos = append.rope.sin = {append.rope.cos.data, DType::f32, {4, 4}, {0, 0}};
  });
}

TEST_CASE("Tables need a row for the furthest of all sequences") {
  Random random(1);
  KvCache cache({.batch = 3, .num_kv_heads = 1, .capacity = 4, .head_dim = 2});
  const RandomRopeTables tables(random, 3, 1, false, Layout::bhsd);
  const std::vector<float> rows(6);
  cache.append_to(1, {rows.data(), {1, 3, 2}}, {rows.data(), {1, 3, 2}}, tables.rope());
  const TensorView all(rows.data(), {3, 1, 1, 2});
  check_fails(ErrorCode::invalid_argument, {"rope.cos", "dim 0 is 3", "at least 4"},
              [&] { cache.append(all, all, tables.rope()); });
  for (const std::int64_t sequence : {0, 2}) CHECK(cache.length(sequence) == 0);
  const RandomRopeTables short_ones(random, 1, 1, false, Layout::bhsd);
  const TensorView none = all.sliced(2, 0, 0);
  cache.append(none, none, short_ones.rope());  // no key, no row
}

TEST_CASE("Sequences and positions that do not exist are refused") {
  KvCache cache(valid_settings());
  const std::vector<float> rows(200);
  const TensorView k(rows.data(), {3, 2, 6}), v(rows.data(), {3, 2, 5});
  for (const std::int64_t sequence : {std::int64_t{-1}, std::int64_t{2}}) {
    const std::vector<std::string> fragments = {fmt::format("sequence is {}", sequence), "0..1"};
    check_fails(ErrorCode::invalid_argument, fragments, [&] { cache.append_to(sequence, k, v); });
    check_fails(ErrorCode::invalid_argument, fragments, [&] { cache.truncate(sequence, 0); });
    check_fails(ErrorCode::invalid_argument, fragments, [&] { cache.length(sequence); });
    check_fails(ErrorCode::invalid_argument, fragments, [&] { cache.position(sequence); });
  }
  cache.append_to(0, k, v);
  check_fails(ErrorCode::invalid_argument, {"position is 3", "0..2"},
              [&] { cache.truncate(0, 3); });
  check_fails(ErrorCode::invalid_argument, {"position is -1", "0..2"},
              [&] { cache.truncate(0, -1); });
  check_fails(ErrorCode::invalid_argument, {"position is 1", "0..0"},
              [&] { cache.truncate(1, 1); });
  CHECK(cache.length(0) == 2);
}
