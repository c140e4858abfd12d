// KvCache: how rows are stored in each type, rope, rolling caches, capacity, binding and memory.
#include <attn/kv_cache.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "support/cache_model.hpp"
#include "support/random.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// [1, 1, 1, n]
TensorView one_row(const std::vector<float>& values) {
  return {values.data(), {1, 1, 1, static_cast<std::int64_t>(values.size())}};
}

float scale_of(const TensorView& scales, std::int64_t key) {
  REQUIRE(scales.dtype == DType::f32);
  return static_cast<const float*>(scales.data)[offset_of(scales.strides, {0, 0, key})];
}

/// A cache of i8 with one key and one value, both of which are `row`.
KvCache cache_of_i8(const std::vector<float>& row) {
  KvCache cache(
      {.num_kv_heads = 1, .capacity = 1, .head_dim = std::ssize(row), .dtype = DType::i8});
  cache.append(one_row(row), one_row(row));
  return cache;
}

}  // namespace

TEST_CASE("Rows of the cache's own type are taken over bit by bit, NaN payloads included") {
  for (const DType dtype : given_types) {
    for (const Layout layout : given_layouts) {
      StridedTensor row(dtype, {1, 1, 1, 5}, layout);
      for (std::int64_t n = 0; n < 5; ++n)
        row.set_bits({0, 0, 0, n}, dtype == DType::f32 ? 0x7f800001u + n : 0xff81u + n);
      KvCache cache({.num_kv_heads = 1, .capacity = 1, .head_dim = 5, .dtype = dtype});
      cache.append(row.view(), row.view());
      const AttentionTensors bound = cache.bind({});
      for (const TensorView& held : {bound.k, bound.v}) {
        for (std::int64_t n = 0; n < 5; ++n) {
          std::uint64_t bits = 0;
          std::memcpy(&bits,
                      static_cast<const std::byte*>(held.data) +
                          static_cast<std::size_t>(n) * size_of(dtype),
                      size_of(dtype));
          CHECK(bits == row.bits()[static_cast<std::size_t>(n)]);
        }
      }
    }
  }
}

TEST_CASE("Rounding is to nearest even") {
  const std::vector<float> row = {1 + 0x1p-8f,  1 + 0x3p-8f,     1 + 0x1p-11f,
                                  1 + 0x3p-11f, -1 - 0x1.01p-8f, 65519,
                                  65520,        0x1p-25f,        0x3p-25f};
  const std::vector<double> as_doubles(row.begin(), row.end());
  for (const DType dtype : given_types) {
    KvCache cache({.num_kv_heads = 1, .capacity = 1, .head_dim = std::ssize(row), .dtype = dtype});
    cache.append(one_row(row), one_row(row));
    CHECK(row_through(cache.bind({}).k, {}, {0, 0, 0}) == rounded_to(dtype, as_doubles));
  }
}

TEST_CASE("i8: largest magnitude is 127 scales, halves go to even") {
  const KvCache cache = cache_of_i8({-254, 1, 3, 5, -1, -3, 127, 0.99f});
  const AttentionTensors bound = cache.bind({});
  CHECK(bound.k.dtype == DType::i8);
  CHECK(scale_of(bound.storage.k_scales, 0) == 2);
  CHECK(row_through(bound.k, {}, {0, 0, 0}) == std::vector<double>{-127, 0, 2, 2, 0, -2, 64, 0});
  CHECK(row_through(bound.v, bound.storage.v_scales, {0, 0, 0}) ==
        std::vector<double>{-254, 0, 4, 4, 0, -4, 128, 0});
}

TEST_CASE("i8: rows of any magnitude are off by half a scale at most") {
  Random random(7);
  for (const float magnitude : {1e-45f, 1e-43f, 1e-38f, 1e-36f, 1e-3f, 1.f, 1e30f, 8e37f}) {
    std::vector<float> row(100);
    for (float& value : row) value = magnitude * static_cast<float>(random.normal());
    const KvCache cache = cache_of_i8(row);
    const AttentionTensors bound = cache.bind({});
    const double scale = scale_of(bound.storage.k_scales, 0);
    const std::vector<double> wanted(row.begin(), row.end());
    CAPTURE(magnitude);
    CHECK(difference(row_through(bound.k, bound.storage.k_scales, {0, 0, 0}),
                     {wanted, scale * (0.5 + 1e-5), 0}) == "");
    CHECK(scale >= std::numeric_limits<float>::min());
    if (magnitude > 1e-35f)
      CHECK(scale == doctest::Approx(largest_magnitude(wanted) / 127).epsilon(1e-6));
  }
}

TEST_CASE("i8: a row of zeros has scale 0, a row that is not finite is NaN") {
  const KvCache zero = cache_of_i8({0.f, -0.f, 0.f});
  CHECK(scale_of(zero.bind({}).storage.k_scales, 0) == 0);
  CHECK(row_through(zero.bind({}).k, {}, {0, 0, 0}) == std::vector<double>{0, 0, 0});
  for (const float bad : {HUGE_VALF, -HUGE_VALF, std::numeric_limits<float>::quiet_NaN(),
                          -std::numeric_limits<float>::quiet_NaN()}) {
    for (std::size_t at = 0; at < 3; ++at) {
      std::vector<float> row = {1, 2, 3};
      row[at] = bad;
      const KvCache cache = cache_of_i8(row);
      CHECK(std::isnan(scale_of(cache.bind({}).storage.k_scales, 0)));
      CHECK(std::isnan(scale_of(cache.bind({}).storage.v_scales, 0)));
      CHECK(row_through(cache.bind({}).k, {}, {0, 0, 0}) == std::vector<double>{0, 0, 0});
    }
  }
  const KvCache largest = cache_of_i8({std::numeric_limits<float>::max(), 0});
  CHECK(row_through(largest.bind({}).k, {}, {0, 0, 0}) == std::vector<double>{127, 0});
}

TEST_CASE("A row that replaces another one of i8 replaces its scale") {
  KvCache cache(
      {.num_kv_heads = 1, .capacity = 1, .head_dim = 2, .dtype = DType::i8, .rolling = true});
  for (const float value : {NAN, 127.f, 0.f}) {
    const std::vector<float> row = {value, 0};
    cache.append(one_row(row), one_row(row));
  }
  CHECK(row_through(cache.bind({}).k, cache.bind({}).storage.k_scales, {0, 0, 0}) ==
        std::vector<double>{0, 0});
}

TEST_CASE("Rope rotates keys by their position, in a rolling cache and after truncation too") {
  const std::vector<float> cos = {1, 0, -1, 0, 1},
                           sin = {0, 1, 0, -1, 0};  // rotations by multiples of 90 degrees
  const std::vector<float> keys(20, 1.f), values(20, 2.f);
  const auto rotated = [&](bool interleaved, auto&& fill) {
    KvCache cache({.num_kv_heads = 1, .capacity = 2, .head_dim = 4, .rolling = true});
    fill(cache, [&](std::int64_t count) {
      cache.append({keys.data(), {1, 1, count, 4}}, {values.data(), {1, 1, count, 4}},
                   Rope{.cos = {cos.data(), {5, 1}},
                        .sin = {sin.data(), {5, 1}},
                        .interleaved = interleaved});
    });
    CHECK(row_through(cache.bind({}).v, {}, {0, 0, 1}) == std::vector<double>{2, 2, 2, 2});
    return row_through(cache.bind({}).k, {}, {0, 0, 1});  // of an odd position
  };
  using Row = std::vector<double>;
  for (const bool interleaved : {false, true}) {
    CHECK(rotated(interleaved, [](KvCache&, auto append) { append(2); }) == Row{-1, 1, 1, 1});
    CHECK(rotated(interleaved, [](KvCache&, auto append) { append(5); }) == Row{1, -1, 1, 1});
    const auto truncated = [](KvCache& cache, auto append) {
      append(4);
      cache.truncate(0, 3);
      CHECK(cache.length(0) == 1);
      append(1);
    };
    CHECK(rotated(interleaved, truncated) == Row{1, -1, 1, 1});
    const auto cleared = [](KvCache& cache, auto append) {
      append(4);
      cache.clear();
      append(2);
    };
    CHECK(rotated(interleaved, cleared) == Row{-1, 1, 1, 1});
  }
}

TEST_CASE("A rolling cache says where its oldest key lies") {
  KvCache cache({.batch = 2, .num_kv_heads = 1, .capacity = 4, .head_dim = 1, .rolling = true});
  std::vector<float> numbers(11);
  for (std::size_t n = 0; n < numbers.size(); ++n) numbers[n] = static_cast<float>(n);
  const TensorView all(numbers.data(), {1, 11, 1});
  const AttentionTensors bound = cache.bind({});  // once: later appends show
  const auto holds = [&](std::int64_t start, std::int64_t length, std::int64_t position) {
    CHECK(entry<std::int64_t>(bound.storage.starts(), {1}) == start);
    CHECK(entry<std::int64_t>(bound.kv_lens, {1}) == length);
    CHECK(cache.position(1) == position);
    for (std::int64_t n = 0; n < length; ++n) {
      CHECK(row_through(bound.k, {}, {1, 0, (start + n) % 4})[0] ==
            static_cast<double>(position - length + n));
    }
    CHECK(cache.length(0) == 0);
  };
  cache.append_to(1, all.sliced(1, 0, 3), all.sliced(1, 0, 3));
  holds(0, 3, 3);
  cache.append_to(1, all.sliced(1, 3, 6), all.sliced(1, 3, 6));
  holds(2, 4, 6);
  cache.truncate(1, 4);
  holds(2, 2, 4);
  cache.append_to(1, all.sliced(1, 4, 11), all.sliced(1, 4, 11));
  holds(3, 4, 11);
  cache.truncate(1, 7);
  holds(3, 0, 7);
  check_fails(ErrorCode::invalid_argument, {"position is 6", "7..7"},
              [&] { cache.truncate(1, 6); });
}

TEST_CASE("A full cache takes nothing, and says what it has room for") {
  KvCache cache({.batch = 2, .num_kv_heads = 1, .capacity = 4, .head_dim = 1});
  const std::vector<float> ones(8, 1.f);
  const std::vector<float> twos(8, 2.f);
  cache.append_to(1, {ones.data(), {1, 3, 1}}, {ones.data(), {1, 3, 1}});
  // Sequence 0 would have room.
  check_fails(ErrorCode::exhausted,
              {"k has 2 keys", "sequence 1", "holds 3", "room for 1", "capacity 4"}, [&] {
                cache.append({twos.data(), {2, 1, 2, 1}}, {twos.data(), {2, 1, 2, 1}});
              });
  CHECK(cache.length(0) == 0);
  CHECK(cache.length(1) == 3);
  CHECK(row_through(cache.bind({}).k, {}, {0, 0, 0})[0] == 0);
  CHECK(row_through(cache.bind({}).k, {}, {1, 0, 3})[0] == 0);
  cache.append({twos.data(), {2, 1, 1, 1}}, {twos.data(), {2, 1, 1, 1}});
  CHECK(cache.length(1) == 4);
  const std::int64_t many = std::numeric_limits<std::int64_t>::max();
  const TensorView endless(ones.data(), DType::f32, {1, many, 1}, {0, 0, 0});
  check_fails(ErrorCode::exhausted, {"sequence 1", "room for 0"},
              [&] { cache.append_to(1, endless, endless); });
}

TEST_CASE("Positions of a rolling cache do not overflow") {
  KvCache cache({.num_kv_heads = 1, .capacity = 2, .head_dim = 1, .rolling = true});
  const float one = 1;
  const std::int64_t many = std::numeric_limits<std::int64_t>::max() - 1;
  const auto keys = [&](std::int64_t count) {
    return TensorView(&one, DType::f32, {1, count, 1}, {0, 0, 0});
  };
  cache.append_to(0, keys(many), keys(many));
  CHECK(cache.position(0) == many);
  CHECK(cache.length(0) == 2);
  check_fails(ErrorCode::exhausted, {"k has 2 keys", "room for 1"},
              [&] { cache.append_to(0, keys(2), keys(2)); });
}

TEST_CASE("Binding replaces what another cache had bound, and keeps all else") {
  const std::vector<float> rows(100);
  AttentionTensors tensors{.q = {rows.data(), {1, 2, 3, 4}}};
  tensors.alibi_slopes = {rows.data(), {2}};
  tensors.ragged.kv_offsets = {rows.data(), {3}};
  KvCache rolling({.num_kv_heads = 2,
                   .capacity = 5,
                   .head_dim = 4,
                   .v_head_dim = 3,
                   .dtype = DType::i8,
                   .rolling = true});
  tensors.storage.layout = Paged{TensorView(rows.data(), {1})};
  tensors = rolling.bind(tensors);
  CHECK(tensors.storage.page_table().absent());
  CHECK(tensors.k.shape == Dims{1, 2, 5, 4});
  CHECK(tensors.v.shape == Dims{1, 2, 5, 3});
  CHECK(tensors.storage.k_scales.shape == Dims{1, 2, 5});
  CHECK(tensors.storage.v_scales.shape == Dims{1, 2, 5});
  CHECK(tensors.kv_lens.shape == Dims{1});
  CHECK(tensors.storage.starts().shape == Dims{1});
  KvCache plain({.num_kv_heads = 2,
                 .capacity = 5,
                 .head_dim = 4,
                 .dtype = DType::f16,
                 .layout = CacheLayout::bshd});
  tensors = plain.bind(tensors);
  CHECK(tensors.storage.starts().absent());
  CHECK(tensors.storage.k_scales.absent());
  CHECK(tensors.storage.v_scales.absent());
  CHECK(tensors.k.dtype == DType::f16);
  CHECK(tensors.k.shape == Dims{1, 2, 5, 4});
  CHECK(tensors.k.strides == Dims{40, 4, 8, 1});
  CHECK(tensors.v.shape == Dims{1, 2, 5, 4});
  CHECK(tensors.q.data == rows.data());
  CHECK(tensors.alibi_slopes.data == rows.data());
  CHECK(tensors.ragged.kv_offsets.data == rows.data());
  CHECK(reinterpret_cast<std::uintptr_t>(tensors.k.data) % 64 == 0);
  CHECK(reinterpret_cast<std::uintptr_t>(tensors.v.data) % 64 == 0);
}

TEST_CASE("A cache counts its bytes, and takes its memory along when it moves") {
  KvCache cache({.batch = 2,
                 .num_kv_heads = 3,
                 .capacity = 4,
                 .head_dim = 6,
                 .v_head_dim = 5,
                 .dtype = DType::bf16});
  CHECK(cache.size_in_bytes() == 2 * 3 * 4 * (6 + 5) * 2);
  const KvCache of_i8(
      {.batch = 2, .num_kv_heads = 3, .capacity = 4, .head_dim = 6, .dtype = DType::i8});
  CHECK(of_i8.size_in_bytes() == 2 * 3 * 4 * 2 * (6 + 4));
  const AttentionTensors bound = cache.bind({});
  KvCache moved = std::move(cache);
  CHECK(moved.bind({}).k.data == bound.k.data);
  CHECK(moved.settings().capacity == 4);
}
