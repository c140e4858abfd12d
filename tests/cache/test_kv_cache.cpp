// KvCache beside a list of keys for each sequence.
#include <attn/kv_cache.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <utility>

#include "support/cache_model.hpp"
#include "support/case.hpp"

using namespace attn;
using namespace attn::test;

namespace {

std::int64_t v_dim(const KvCache::Settings& settings) {
  return settings.v_head_dim.value_or(settings.head_dim);
}

std::string to_string(const KvCache::Settings& s) {
  return fmt::format("batch {} heads {} capacity {} dims {}/{} {} {}{}", s.batch, s.num_kv_heads,
                     s.capacity, s.head_dim, v_dim(s), name_of(s.dtype), name_of(s.layout),
                     s.rolling ? " rolling" : "");
}

/// Integers from a bound vector.
std::int64_t entry(const TensorView& vector, std::int64_t n) {
  REQUIRE(vector.dtype == DType::i64);
  return static_cast<const std::int64_t*>(vector.data)[n * vector.strides[0]];
}

struct ModelSequence {
  std::vector<ModelKey> keys;
  std::int64_t oldest = 0;

  std::int64_t length() const { return std::ssize(keys); }
  std::int64_t end() const { return oldest + length(); }
  void roll(std::int64_t capacity) {
    const std::int64_t dropped = std::max<std::int64_t>(0, length() - capacity);
    keys.erase(keys.begin(), keys.begin() + dropped);
    oldest += dropped;
  }
};

/// Empty if a cache holds what its model does, and says so.
std::string difference(const KvCache& cache, const std::vector<ModelSequence>& model) {
  const AttentionTensors bound = cache.bind({});
  const KvCache::Settings& settings = cache.settings();
  for (std::int64_t sequence = 0; sequence < settings.batch; ++sequence) {
    const ModelSequence& wanted = model[static_cast<std::size_t>(sequence)];
    const std::int64_t start = settings.rolling ? entry(bound.storage.starts(), sequence) : 0;
    if (cache.length(sequence) != wanted.length())
      return fmt::format("length {} of {}", cache.length(sequence), wanted.length());
    if (entry(bound.kv_lens, sequence) != wanted.length())
      return fmt::format("kv_lens[{}] is off", sequence);
    if (cache.position(sequence) != wanted.end())
      return fmt::format("position {} of {}", cache.position(sequence), wanted.end());
    if (start < 0 || start >= settings.capacity)
      return fmt::format("kv_starts[{}] is {}", sequence, start);
    for (std::int64_t key = 0; key < wanted.length(); ++key) {
      const std::string at_key = difference(bound, sequence, (start + key) % settings.capacity,
                                            wanted.keys[static_cast<std::size_t>(key)]);
      if (!at_key.empty()) return at_key;
    }
  }
  return "";
}

/// A cache and its model, changed in the same way.
class RandomRun {
 public:
  static constexpr int steps = 25;

  explicit RandomRun(std::uint64_t seed)
      : random_(seed),
        settings_(random_settings()),
        cache_(settings_),
        model_(static_cast<std::size_t>(settings_.batch)),
        tables_(random_tables(random_, steps * most_keys() + 1, settings_.head_dim)) {}

  const KvCache::Settings& settings() const { return settings_; }
  std::string difference() const { return ::difference(cache_, model_); }

  void step() {
    const std::int64_t sequence = random_.integer(0, settings_.batch - 1);
    ModelSequence& model = model_[static_cast<std::size_t>(sequence)];
    const double choice = random_.uniform();
    if (choice < 0.05) {
      cache_.clear();
      for (ModelSequence& each : model_) each = {};
    } else if (choice < 0.3) {
      const std::int64_t position = random_.integer(model.oldest, model.end());
      cache_.truncate(sequence, position);
      model.keys.resize(static_cast<std::size_t>(position - model.oldest));
    } else if (choice < 0.6) {
      append(0, settings_.batch, [&](const GivenKeys& keys) {
        cache_.append(keys.k.view(), keys.v.view(), rope_of(tables_));
      });
    } else {
      append(sequence, {}, [&](const GivenKeys& keys) {
        cache_.append_to(sequence, keys.k.view(), keys.v.view(), rope_of(tables_));
      });
    }
  }

 private:
  std::int64_t most_keys() const { return settings_.capacity + 4; }

  KvCache::Settings random_settings() {
    KvCache::Settings settings{.batch = random_.integer(1, 3),
                               .num_kv_heads = random_.integer(1, 3),
                               .capacity = random_.integer(1, 9),
                               .head_dim = random_.integer(1, 21)};
    if (random_.chance(0.6)) settings.v_head_dim = random_.integer(1, 21);
    settings.dtype = random_.pick(cache_types);
    settings.layout = random_.pick(cache_layouts);
    settings.rolling = random_.chance(0.5);
    return settings;
  }

  GivenKeys random_keys(std::optional<std::int64_t> batch) {
    const std::int64_t count =
        random_.chance(0.5) ? random_.integer(0, 2) : random_.integer(0, most_keys());
    const auto shape = [&](std::int64_t dim) {
      return batch ? Dims{*batch, settings_.num_kv_heads, count, dim}
                   : Dims{settings_.num_kv_heads, count, dim};
    };
    return {random_rows(random_, shape(settings_.head_dim)),
            random_rows(random_, shape(v_dim(settings_)))};
  }

  template <class F>
  void append(std::int64_t first, std::optional<std::int64_t> batch, F&& run) {
    const GivenKeys keys = random_keys(batch);
    const std::int64_t count = keys.k.shape()[keys.k.shape().rank() - 2];
    const std::span<ModelSequence> grown(model_.data() + first,
                                         static_cast<std::size_t>(batch.value_or(1)));
    const bool fits = settings_.rolling ||
                      std::all_of(grown.begin(), grown.end(), [&](const ModelSequence& sequence) {
                        return sequence.length() + count <= settings_.capacity;
                      });
    if (!fits)
      return check_fails(ErrorCode::exhausted, {fmt::format("k has {} keys", count)},
                         [&] { run(keys); });
    run(keys);
    for (std::size_t n = 0; n < grown.size(); ++n) {
      ModelSequence& sequence = grown[n];
      for (ModelKey& key :
           keys.stored_in(settings_.dtype, static_cast<std::int64_t>(n), sequence.end(), tables_)) {
        sequence.keys.push_back(std::move(key));
      }
      sequence.roll(settings_.capacity);
    }
  }

  Random random_;
  KvCache::Settings settings_;
  KvCache cache_;
  std::vector<ModelSequence> model_;
  std::optional<RandomRopeTables> tables_;
};

/// [1, 1, 1, n]
TensorView one_row(const std::vector<float>& values) {
  return {values.data(), {1, 1, 1, static_cast<std::int64_t>(values.size())}};
}

float scale_of(const TensorView& scales, std::int64_t key) {
  REQUIRE(scales.dtype == DType::f32);
  return static_cast<const float*>(scales.data)[offset_of(scales.strides, {0, 0, key})];
}

/// A cache of i8 with one key, which is its own value.
KvCache cache_of_i8(const std::vector<float>& row) {
  KvCache cache(
      {.num_kv_heads = 1, .capacity = 1, .head_dim = std::ssize(row), .dtype = DType::i8});
  cache.append(one_row(row), one_row(row));
  return cache;
}

KvCache::Settings right() {
  return {.batch = 2, .num_kv_heads = 3, .capacity = 4, .head_dim = 6, .v_head_dim = 5};
}

void check_settings_refused(const std::vector<std::string>& words,
                            const std::function<void(KvCache::Settings&)>& change) {
  KvCache::Settings settings = right();
  change(settings);
  check_fails(ErrorCode::invalid_argument, words, [&] { KvCache cache(settings); });
}

/// An append that is right until it is changed.
struct Append {
  TensorView k, v;
  Rope rope;
};

/// The change makes append and append_to fail in the same way; it finds tensors without batch.
/// Nothing of the cache changes.
void check_append_refused(const std::vector<std::string>& words,
                          const std::function<void(Append&)>& change) {
  Random random(1);
  KvCache cache(right());
  const RandomRopeTables tables(random, 4, 2, false, Layout::bhsd);
  const GivenKeys first{random_rows(random, {2, 3, 2, 6}), random_rows(random, {2, 3, 2, 5})};
  cache.append(first.k.view(), first.v.view());
  const std::vector<ModelSequence> model = {{first.stored_in(DType::f32, 0, 0, {})},
                                            {first.stored_in(DType::f32, 1, 0, {})}};

  const GivenKeys second{random_rows(random, {3, 2, 6}), random_rows(random, {3, 2, 5})};
  Append append{second.k.view(), second.v.view(), tables.rope()};
  change(append);
  check_fails(ErrorCode::invalid_argument, words,
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
  check_fails(ErrorCode::invalid_argument, {words[0]},
              [&] { cache.append(for_all(append.k), for_all(append.v), append.rope); });
  CHECK(difference(cache, model) == "");
}

}  // namespace

TEST_CASE("Random operations leave what a list of keys holds") {
  for (const std::uint64_t seed : seeds(1, 400)) {
    RandomRun run(seed);
    INFO("repeat with ATTN_TEST_SEED=", seed, ": ", to_string(run.settings()));
    std::string difference;
    for (int step = 0; step < RandomRun::steps && difference.empty(); ++step) {
      run.step();
      difference = run.difference();
      if (!difference.empty()) difference = fmt::format("after step {}: {}", step, difference);
    }
    CHECK(difference == "");
  }
}

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

TEST_CASE("Rope turns keys by their position, in a rolling cache and after truncation too") {
  const std::vector<float> cos = {1, 0, -1, 0, 1}, sin = {0, 1, 0, -1, 0};  // quarter turns
  const std::vector<float> keys(20, 1.f), values(20, 2.f);
  const auto turned = [&](bool interleaved, auto&& fill) {
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
    CHECK(turned(interleaved, [](KvCache&, auto append) { append(2); }) == Row{-1, 1, 1, 1});
    CHECK(turned(interleaved, [](KvCache&, auto append) { append(5); }) == Row{1, -1, 1, 1});
    const auto truncated = [](KvCache& cache, auto append) {
      append(4);
      cache.truncate(0, 3);
      CHECK(cache.length(0) == 1);
      append(1);
    };
    CHECK(turned(interleaved, truncated) == Row{1, -1, 1, 1});
    const auto cleared = [](KvCache& cache, auto append) {
      append(4);
      cache.clear();
      append(2);
    };
    CHECK(turned(interleaved, cleared) == Row{-1, 1, 1, 1});
  }
}

TEST_CASE("A rolling cache says where its oldest key lies") {
  KvCache cache({.batch = 2, .num_kv_heads = 1, .capacity = 4, .head_dim = 1, .rolling = true});
  std::vector<float> numbers(11);
  for (std::size_t n = 0; n < numbers.size(); ++n) numbers[n] = static_cast<float>(n);
  const TensorView all(numbers.data(), {1, 11, 1});
  const AttentionTensors bound = cache.bind({});  // once: later appends show
  const auto holds = [&](std::int64_t start, std::int64_t length, std::int64_t position) {
    CHECK(entry(bound.storage.starts(), 1) == start);
    CHECK(entry(bound.kv_lens, 1) == length);
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

  KvCache cache(right());
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
  KvCache cache(right());
  const std::vector<float> rows(200);
  const TensorView k(rows.data(), {3, 2, 6}), v(rows.data(), {3, 2, 5});
  for (const std::int64_t sequence : {std::int64_t{-1}, std::int64_t{2}}) {
    const std::vector<std::string> words = {fmt::format("sequence is {}", sequence), "0..1"};
    check_fails(ErrorCode::invalid_argument, words, [&] { cache.append_to(sequence, k, v); });
    check_fails(ErrorCode::invalid_argument, words, [&] { cache.truncate(sequence, 0); });
    check_fails(ErrorCode::invalid_argument, words, [&] { cache.length(sequence); });
    check_fails(ErrorCode::invalid_argument, words, [&] { cache.position(sequence); });
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
