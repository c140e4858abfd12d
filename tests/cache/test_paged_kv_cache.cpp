// PagedKvCache: forks, shared pages, the order of pages, capacity, binding and layouts; what it
// refuses.
#include <attn/kv_cache.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/check_fails.hpp"
#include "support/paged_kv_cache_model.hpp"
#include "support/random.hpp"

using namespace attn;
using namespace attn::test;

namespace {

using Sequence = PagedKvCache::Sequence;

using Pages = std::vector<std::int32_t>;
Pages pages_of(const PagedKvCache& cache, Sequence sequence) {
  return {cache.pages(sequence).begin(), cache.pages(sequence).end()};
}

/// Appends `count` keys of one head and one element, each of this value.
void append(PagedKvCache& cache, Sequence sequence, float value, std::int64_t count) {
  const std::vector<float> rows(static_cast<std::size_t>(count), value);
  const TensorView view(rows.data(), {1, count, 1});
  cache.append(sequence, view, view);
}

/// The values of all keys of a sequence that append() above filled.
std::vector<double> contents(PagedKvCache& cache, Sequence sequence) {
  const Sequence sequences[] = {sequence};
  const AttentionTensors bound = cache.bind({}, sequences);
  std::vector<double> result;
  for (std::int64_t key = 0; key < cache.length(sequence); ++key) {
    const std::int64_t page =
        entry<std::int32_t>(bound.storage.page_table(), {0, key / cache.settings().page_size});
    const Dims place{page, 0, key % cache.settings().page_size};
    result.push_back(row_through(bound.k, bound.storage.k_scales, place)[0]);
    CHECK(row_through(bound.v, bound.storage.v_scales, place)[0] == result.back());
  }
  return result;
}

PagedKvCache::Settings small() {
  return {.num_pages = 4, .page_size = 2, .num_kv_heads = 1, .head_dim = 1};
}

PagedKvCache::Settings valid_settings() {
  return {.num_pages = 4, .page_size = 2, .num_kv_heads = 3, .head_dim = 6, .v_head_dim = 5};
}

void check_settings_refused(const std::vector<std::string>& fragments,
                            const std::function<void(PagedKvCache::Settings&)>& change) {
  PagedKvCache::Settings settings = valid_settings();
  change(settings);
  check_fails(ErrorCode::invalid_argument, fragments, [&] { PagedKvCache cache(settings); });
}

}  // namespace

TEST_CASE("Appending to forks changes neither their parent nor each other") {
  for (const DType dtype : cache_types) {
    PagedKvCache::Settings settings = small();
    settings.num_pages = 6;
    settings.dtype = dtype;
    PagedKvCache cache(settings);
    using Keys = std::vector<double>;
    const Sequence parent = cache.create();
    append(cache, parent, 127, 3);
    const Sequence a = cache.fork(parent), b = cache.fork(parent);
    CHECK(cache.free_pages() == 4);
    append(cache, a, 254, 1);
    append(cache, b, -127, 2);
    CHECK(contents(cache, parent) == Keys{127, 127, 127});
    CHECK(contents(cache, a) == Keys{127, 127, 127, 254});
    CHECK(contents(cache, b) == Keys{127, 127, 127, -127, -127});
    // The first page is still shared, the last one is the parent's alone.
    CHECK(cache.pages(a)[0] == cache.pages(parent)[0]);
    CHECK(cache.free_pages() == 1);
    append(cache, parent, 508, 1);
    CHECK(cache.free_pages() == 1);
    CHECK(contents(cache, parent) == Keys{127, 127, 127, 508});
    CHECK(contents(cache, a) == Keys{127, 127, 127, 254});
    for (const Sequence sequence : {parent, b, a}) cache.remove(sequence);
    CHECK(cache.free_pages() == 6);
  }
}

TEST_CASE("Truncating into a shared page writes nothing; appending then copies it") {
  PagedKvCache cache(small());
  const Sequence parent = cache.create();
  append(cache, parent, 1, 4);
  const Sequence child = cache.fork(parent);
  cache.truncate(child, 3);
  CHECK(pages_of(cache, child) == pages_of(cache, parent));
  append(cache, child, 2, 1);
  CHECK(contents(cache, parent) == std::vector<double>{1, 1, 1, 1});
  CHECK(contents(cache, child) == std::vector<double>{1, 1, 1, 2});
  CHECK(cache.free_pages() == 1);
  cache.truncate(child, 2);  // at the end of a shared page: nothing to copy
  append(cache, child, 3, 1);
  CHECK(cache.free_pages() == 1);
  CHECK(contents(cache, child) == std::vector<double>{1, 1, 3});
}

TEST_CASE("Pages and numbers are given out in a known order") {
  PagedKvCache cache(small());
  const Sequence first = cache.create(), second = cache.create();
  CHECK(first == 0);
  CHECK(second == 1);
  CHECK(pages_of(cache, first).empty());
  append(cache, first, 1, 3);
  append(cache, second, 2, 1);
  CHECK(pages_of(cache, first) == Pages{0, 1});
  CHECK(pages_of(cache, second) == Pages{2});
  cache.remove(first);
  append(cache, second, 2, 4);
  CHECK(pages_of(cache, second) == Pages{2, 0, 1});
  CHECK(cache.create() == first);
  CHECK(cache.length(first) == 0);
}

TEST_CASE("An exhausted pool takes nothing, and says what is needed and what there is") {
  PagedKvCache cache(small());
  const Sequence parent = cache.create();
  append(cache, parent, 1, 5);
  const Sequence child = cache.fork(parent);
  CHECK(cache.free_pages() == 1);
  const std::vector<std::string> fragments = {"k has 2 keys for sequence 1", "holds 5",
                                              "need 2 more pages of 2 keys", "1 of 4 are free"};
  check_fails(ErrorCode::exhausted, fragments, [&] { append(cache, child, 2, 2); });
  CHECK(cache.free_pages() == 1);
  CHECK(cache.length(child) == 5);
  CHECK(pages_of(cache, child) == pages_of(cache, parent));
  append(cache, child, 2, 1);  // the copy takes the last page
  CHECK(cache.free_pages() == 0);
  append(cache, parent, 3, 1);  // the parent's is its own now
  CHECK(contents(cache, parent) == std::vector<double>{1, 1, 1, 1, 1, 3});
  CHECK(contents(cache, child) == std::vector<double>{1, 1, 1, 1, 1, 2});
  check_fails(ErrorCode::exhausted, {"need 1 more pages", "0 of 4"},
              [&] { append(cache, parent, 4, 1); });
  const float one = 1;
  const TensorView endless(&one, DType::f32, {1, std::numeric_limits<std::int64_t>::max(), 1},
                           {0, 0, 0});
  check_fails(ErrorCode::exhausted, {"0 of 4"}, [&] { cache.append(child, endless, endless); });
  cache.remove(child);
  CHECK(cache.free_pages() == 1);
}

TEST_CASE("Binding takes sequences in any order and several times, and keeps all else") {
  PagedKvCache cache(
      {.num_pages = 4, .page_size = 2, .num_kv_heads = 1, .head_dim = 1, .dtype = DType::i8});
  const Sequence a = cache.create(), b = cache.create(), empty = cache.create();
  append(cache, a, 1, 1);
  append(cache, b, 2, 5);
  const std::vector<float> other(8);
  AttentionTensors tensors{.q = {other.data(), {1, 2, 2, 2}},
                           .storage = {.layout = Ring{TensorView(other.data(), {1})}}};
  tensors.sinks = {other.data(), {2}};
  const std::vector<Sequence> sequences = {b, empty, a, b};
  const AttentionTensors bound = cache.bind(tensors, sequences);
  CHECK(bound.q.data == other.data());
  CHECK(bound.sinks.data == other.data());
  CHECK(bound.storage.starts().absent());
  CHECK(bound.storage.k_scales.shape == Dims{4, 1, 2});
  CHECK(bound.storage.v_scales.shape == Dims{4, 1, 2});
  CHECK(bound.storage.page_table().dtype == DType::i32);
  CHECK(bound.storage.page_table().shape == Dims{4, 3});
  const auto* table = static_cast<const std::int32_t*>(bound.storage.page_table().data);
  CHECK(Pages(table, table + 12) == Pages{1, 2, 3, 0, 0, 0, 0, 0, 0, 1, 2, 3});
  const auto* lengths = static_cast<const std::int64_t*>(bound.kv_lens.data);
  CHECK(std::vector<std::int64_t>(lengths, lengths + 4) == std::vector<std::int64_t>{5, 0, 1, 5});

  const Sequence only_empty[] = {empty};
  CHECK(cache.bind({}, only_empty).storage.page_table().shape == Dims{1, 1});
  CHECK(cache.bind({}, {}).storage.page_table().shape == Dims{0, 1});
  CHECK(cache.bind({}, {}).kv_lens.shape == Dims{0});
}

TEST_CASE("A pool gives the same results in both layouts") {
  PagedKvCache::Settings settings = valid_settings();
  CHECK(PagedKvCache(settings).bind({}, {}).k.shape == Dims{4, 3, 2, 6});
  CHECK(PagedKvCache(settings).bind({}, {}).v.shape == Dims{4, 3, 2, 5});
  CHECK(PagedKvCache(settings).bind({}, {}).k.strides == Dims{36, 12, 6, 1});
  CHECK(PagedKvCache(settings).size_in_bytes() == 4 * 3 * 2 * 11 * 4);
  settings.layout = CacheLayout::bshd;
  CHECK(PagedKvCache(settings).bind({}, {}).k.shape == Dims{4, 3, 2, 6});
  CHECK(PagedKvCache(settings).bind({}, {}).k.strides == Dims{36, 6, 18, 1});
}

TEST_CASE("Settings that make no cache are refused") {
  check_settings_refused({"num_pages is 0"}, [](auto& settings) { settings.num_pages = 0; });
  check_settings_refused({"num_pages is 2147483648", "i32"},
                         [](auto& settings) { settings.num_pages = std::int64_t{1} << 31; });
  check_settings_refused({"page_size is 0"}, [](auto& settings) { settings.page_size = 0; });
  check_settings_refused({"num_kv_heads is 0"}, [](auto& settings) { settings.num_kv_heads = 0; });
  check_settings_refused({"head_dim is -2"}, [](auto& settings) { settings.head_dim = -2; });
  check_settings_refused({"v_head_dim is 0"}, [](auto& settings) { settings.v_head_dim = 0; });
  check_settings_refused({"dtype is i32"}, [](auto& settings) { settings.dtype = DType::i32; });
  check_settings_refused({"overflows"},
                         [](auto& settings) { settings.page_size = std::int64_t{1} << 60; });
}

TEST_CASE("What does not fit is refused, and changes nothing") {
  Random random(1);
  PagedKvCache cache(valid_settings());
  const Sequence sequence = cache.create();
  const GivenKeys given{random_rows(random, {3, 3, 6}), random_rows(random, {3, 3, 5})};
  const TensorView k = given.k.view(), v = given.v.view();
  cache.append(sequence, k, v);
  const PagedModel model = {{sequence, given.stored_in(DType::f32, 0, 0, {})}};
  const auto refused = [&](const std::vector<std::string>& fragments, auto&& run) {
    check_fails(ErrorCode::invalid_argument, fragments, run);
    CHECK(difference_of_pages(cache, model) == "");
    CHECK(difference(cache, model, {sequence}) == "");
  };
  refused({"k has shape", "is 2", "needs 3"},
          [&] { cache.append(sequence, k.sliced(0, 0, 2), v); });
  refused({"v has shape", "count of k"}, [&] { cache.append(sequence, k, v.sliced(1, 0, 2)); });
  refused({"v has shape", "v_head_dim"}, [&] { cache.append(sequence, k, v.sliced(2, 0, 2)); });
  refused({"rank 4", "rank 3"}, [&] {
    cache.append(sequence, {k.data, DType::f32, {1, 1, 1, 6}}, v);
  });
  const RandomRopeTables tables(random, 5, 3, true, Layout::bhsd);
  refused({"rope.cos", "dim 0 is 5", "at least 6"},
          [&] { cache.append(sequence, k, v, tables.rope()); });
  const RandomRopeTables short_ones(random, 1, 3, true, Layout::bhsd);
  cache.append(sequence, k.sliced(1, 0, 0), v.sliced(1, 0, 0),
               short_ones.rope());  // no key, no row
  refused({"length is 4", "0..3"}, [&] { cache.truncate(sequence, 4); });
  refused({"length is -1", "0..3"}, [&] { cache.truncate(sequence, -1); });
}

TEST_CASE("Sequences that do not exist are refused by number") {
  PagedKvCache cache(small());
  cache.create();
  cache.remove(cache.create());
  const float one = 1;
  const TensorView row(&one, {1, 1, 1});
  for (const Sequence sequence : {-1, 1, 2}) {
    const std::vector<std::string> fragments = {
        fmt::format("sequence {} does not exist", sequence)};
    const auto refused = [&](auto&& run) {
      check_fails(ErrorCode::invalid_argument, fragments, run);
    };
    refused([&] { cache.length(sequence); });
    refused([&] { cache.pages(sequence); });
    refused([&] { cache.fork(sequence); });
    refused([&] { cache.remove(sequence); });
    refused([&] { cache.append(sequence, row, row); });
    refused([&] { cache.truncate(sequence, 0); });
    const Sequence sequences[] = {0, sequence};
    refused([&] { cache.bind({}, sequences); });
  }
}
