// Attention over bound caches, against the reference on the keys that were appended. Memory that no
// sequence uses is filled with NaN, which must not change the result.
#include <attn/kv_cache.hpp>
#include <attn/reference.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "support/cache_model.hpp"
#include "support/check.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr std::int64_t num_kv_heads = 2, num_q_heads = 6, head_dim = 24, v_head_dim = 17;

/// Keys and values of one sequence in order, [1, num_kv_heads, count, dim], with values that the
/// cache's type represents exactly.
struct Model {
  DType dtype = DType::f32;
  StridedTensor k, v;

  Model(DType type, std::int64_t count, std::uint64_t seed) : dtype(type) {
    Random random(seed);
    k = rows(random, count, head_dim);
    v = rows(random, count, v_head_dim);
  }

  /// Values that i8 holds exactly: multiples of 1/64 up to 127/64. Each row contains 127/64, so
  /// that its scale is 1/64 and nothing is rounded.
  StridedTensor rows(Random& random, std::int64_t count, std::int64_t width) const {
    StridedTensor tensor(dtype == DType::i8 ? DType::f32 : dtype, {1, num_kv_heads, count, width});
    for_each_index(tensor.shape(), [&](const Dims& at) {
      const double whole = at[3] == 0 ? 127.0 : static_cast<double>(random.integer(-127, 127));
      tensor.set(at, dtype == DType::i8 ? whole / 64 : random.normal());
    });
    return tensor;
  }

  TensorView keys(std::int64_t begin, std::int64_t end) const {
    return head_major(k.view().sliced(2, begin, end));
  }
  TensorView values(std::int64_t begin, std::int64_t end) const {
    return head_major(v.view().sliced(2, begin, end));
  }
  static TensorView head_major(const TensorView& entry) {
    return {entry.data,
            entry.dtype,
            {entry.shape[1], entry.shape[2], entry.shape[3]},
            {entry.strides[1], entry.strides[2], entry.strides[3]}};
  }
};

/// The keys first..last of a model, which a sequence of the cache holds, and its queries.
struct Held {
  const Model* model;
  std::int64_t first, last;
};

Case case_of(const Held& held, std::int64_t q_len, std::uint64_t seed) {
  return {.num_q_heads = num_q_heads,
          .num_kv_heads = num_kv_heads,
          .q_len = q_len,
          .kv_len = held.last - held.first,
          .head_dim = head_dim,
          .v_head_dim = v_head_dim,
          .kv_type = held.model->k.dtype(),
          .options = {.causal = Causal::bottom_right()},
          .seed = seed};
}

Inputs inputs_of(const Held& held, const Case& c) {
  Inputs inputs = make_inputs(c);
  copy_into(held.model->k.view().sliced(2, held.first, held.last), inputs.k.view());
  copy_into(held.model->v.view().sliced(2, held.first, held.last), inputs.v.view());
  return inputs;
}

void poison_row(const TensorView& rows, const Dims& at) {
  const auto element = static_cast<std::int64_t>(size_of(rows.dtype));
  auto* data = static_cast<std::byte*>(const_cast<void*>(rows.data));
  for (std::int64_t n = 0; n < rows.shape[3]; ++n) {
    std::memset(data + (offset_of({rows.strides[0], rows.strides[1], rows.strides[2]}, at) +
                        n * rows.strides[3]) *
                           element,
                0xff, size_of(rows.dtype));
  }
}

/// Writes NaN to all rows of a bound cache except those for which used(entry, row) is true.
template <class Used>
void poison_unused(const AttentionTensors& bound, Used used) {
  for_each_index({bound.k.shape[0], bound.k.shape[1], bound.k.shape[2]}, [&](const Dims& at) {
    if (used(at[0], at[2])) return;
    poison_row(bound.k, at);
    poison_row(bound.v, at);
    for (const TensorView* scales : {&bound.storage.k_scales, &bound.storage.v_scales}) {
      if (!scales->absent())
        static_cast<float*>(const_cast<void*>(scales->data))[offset_of(scales->strides, at)] = NAN;
    }
  });
}

/// The queries of all sequences in one padded batch, and the outputs that are expected.
struct Step {
  Step(const std::vector<Held>& sequences, std::int64_t q_len, std::uint64_t seed)
      : held(sequences) {
    const auto batch = static_cast<std::int64_t>(held.size());
    q = StridedTensor(DType::f32, {batch, num_q_heads, q_len, head_dim});
    for (std::int64_t b = 0; b < batch; ++b) {
      cases.push_back(
          case_of(held[static_cast<std::size_t>(b)], q_len, seed + static_cast<std::uint64_t>(b)));
      inputs.push_back(inputs_of(held[static_cast<std::size_t>(b)], cases.back()));
      copy_into(inputs.back().q.view(), q.view().sliced(0, b, b + 1));
    }
    out = StridedTensor(DType::f32, {batch, num_q_heads, q_len, v_head_dim});
    lse = StridedTensor(DType::f32, {batch, num_q_heads, q_len});
  }

  AttentionTensors unbound() { return {.q = q.view(), .out = out.view(), .lse = lse.view()}; }
  Outputs outputs(std::int64_t b) const {
    Outputs one = make_outputs(cases[static_cast<std::size_t>(b)]);
    copy_into(out.view().sliced(0, b, b + 1), one.out.view());
    copy_into(lse.view().sliced(0, b, b + 1), one.lse.view());
    return one;
  }

  std::vector<Held> held;
  std::vector<Case> cases;
  std::vector<Inputs> inputs;
  StridedTensor q, out, lse;
};

/// Runs a bound step on each ISA, with and without NaN in unused memory. The type of the cache adds
/// no error, because it holds the values of the models exactly.
template <class Used>
void check_step(Step& step, const AttentionTensors& bound, Used used) {
  std::vector<Expected> expected;
  for (std::size_t b = 0; b < step.cases.size(); ++b)
    expected.push_back(expected_of(step.cases[b], step.inputs[b]));
  const auto run_all = [&] {
    std::vector<std::vector<Outputs>> all;
    for (const Isa isa : available_isas()) {
      attention(bound, {.causal = Causal::bottom_right()}, {.isa = isa});
      all.emplace_back();
      for (std::size_t b = 0; b < expected.size(); ++b)
        all.back().push_back(step.outputs(static_cast<std::int64_t>(b)));
    }
    return all;
  };
  const auto clean = run_all();
  poison_unused(bound, used);
  const auto poisoned = run_all();
  for (std::size_t isa = 0; isa < clean.size(); ++isa) {
    CAPTURE(isa);
    for (std::size_t b = 0; b < expected.size(); ++b) {
      CAPTURE(b);
      CHECK(difference(clean[isa][b], expected[b]) == "");
      CHECK(bit_difference(clean[isa][b], poisoned[isa][b]) == "");
    }
  }
}

void check_kv_cache(const KvCache::Settings& settings, const std::vector<std::int64_t>& counts,
                    const std::vector<std::int64_t>& dropped) {
  CAPTURE(std::string(name_of(settings.dtype)));
  CAPTURE(std::string(name_of(settings.layout)));
  CAPTURE(settings.rolling);
  KvCache cache(settings);
  std::vector<Model> models;
  for (std::size_t b = 0; b < counts.size(); ++b)
    models.emplace_back(settings.dtype, counts[b], 50 + b);
  std::vector<Held> held;
  for (std::size_t b = 0; b < counts.size(); ++b) {
    const auto sequence = static_cast<std::int64_t>(b);
    for (std::int64_t n = 0; n < counts[b]; n += 7) {
      const std::int64_t end = std::min(counts[b], n + 7);
      cache.append_to(sequence, models[b].keys(n, end), models[b].values(n, end));
    }
    cache.truncate(sequence, counts[b] - dropped[b]);
    held.push_back(
        {&models[b], counts[b] - dropped[b] - cache.length(sequence), counts[b] - dropped[b]});
  }
  for (const std::int64_t q_len : {1, 3, 20}) {
    Step step(held, q_len, 7);
    const AttentionTensors bound = cache.bind(step.unbound());
    check_step(step, bound, [&](std::int64_t entry, std::int64_t row) {
      const Held& h = held[static_cast<std::size_t>(entry)];
      const std::int64_t length = h.last - h.first,
                         first_row = settings.rolling ? h.first % settings.capacity : 0;
      return (row - first_row + settings.capacity) % settings.capacity < length;
    });
  }
}

}  // namespace

TEST_CASE("KvCache of each type and layout, with room left, rolling, and after keys were dropped") {
  for (const DType dtype : cache_types) {
    for (const CacheLayout layout : cache_layouts) {
      KvCache::Settings settings{.batch = 3,
                                 .num_kv_heads = num_kv_heads,
                                 .capacity = 150,
                                 .head_dim = head_dim,
                                 .v_head_dim = v_head_dim,
                                 .dtype = dtype,
                                 .layout = layout};
      check_kv_cache(settings, {130, 150, 9}, {0, 11, 9});
      settings.rolling = true;
      check_kv_cache(settings, {215, 150, 40}, {0, 0, 3});
      check_kv_cache(settings, {331, 160, 300}, {20, 1, 100});
    }
  }
}

TEST_CASE("PagedKvCache of each type and layout, with pages of any size, shared and dropped ones") {
  for (const DType dtype : cache_types) {
    for (const std::int64_t page_size : {1, 3, 16, 64, 100}) {
      CAPTURE(std::string(name_of(dtype)));
      CAPTURE(page_size);
      PagedKvCache cache({.num_pages = 600 / page_size + 8,
                          .page_size = page_size,
                          .num_kv_heads = num_kv_heads,
                          .head_dim = head_dim,
                          .v_head_dim = v_head_dim,
                          .dtype = dtype,
                          .layout = page_size % 2 == 0 ? CacheLayout::bshd : CacheLayout::bhsd});
      const Model model(dtype, 200, 5);
      const auto parent = cache.create(), other = cache.create();
      cache.append(other, model.keys(150, 161), model.values(150, 161));
      cache.append(parent, model.keys(0, 131), model.values(0, 131));
      const auto child = cache.fork(parent);
      cache.truncate(child, 70);
      cache.append(child, model.keys(70, 72), model.values(70, 72));
      cache.append(parent, model.keys(131, 140), model.values(131, 140));
      cache.remove(other);
      const auto third = cache.create();
      cache.append(third, model.keys(20, 50), model.values(20, 50));
      const std::vector<PagedKvCache::Sequence> sequences{child, third, parent, child};
      const std::vector<Held> held{
          {&model, 0, 72}, {&model, 20, 50}, {&model, 0, 140}, {&model, 0, 72}};
      for (const std::int64_t q_len : {1, 20}) {
        Step step(held, q_len, 7);
        const AttentionTensors bound = cache.bind(step.unbound(), sequences);
        check_step(step, bound, [&](std::int64_t page, std::int64_t row) {
          for (const auto sequence : sequences) {
            const auto pages = cache.pages(sequence);
            for (std::size_t n = 0; n < pages.size(); ++n) {
              if (pages[n] == page &&
                  static_cast<std::int64_t>(n) * page_size + row < cache.length(sequence))
                return true;
            }
          }
          return false;
        });
      }
    }
  }
}

TEST_CASE("Token by token is one causal prefill") {
  constexpr std::int64_t count = 140;
  for (const DType dtype : cache_types) {
    CAPTURE(std::string(name_of(dtype)));
    const Model model(dtype, count, 9);
    const Held all{&model, 0, count};
    const Case prefill = case_of(all, count, 3);
    const Inputs inputs = inputs_of(all, prefill);
    const Expected expected = expected_of(prefill, inputs);
    KvCache cache({.num_kv_heads = num_kv_heads,
                   .capacity = count,
                   .head_dim = head_dim,
                   .v_head_dim = v_head_dim,
                   .dtype = dtype});
    PagedKvCache paged({.num_pages = 9,
                        .num_kv_heads = num_kv_heads,
                        .head_dim = head_dim,
                        .v_head_dim = v_head_dim,
                        .dtype = dtype});
    const PagedKvCache::Sequence sequence = paged.create();
    Outputs outputs = make_outputs(prefill), paged_outputs = make_outputs(prefill);
    const auto step = [&](Outputs& to, std::int64_t n) {
      return AttentionTensors{.q = inputs.q.view().sliced(2, n, n + 1),
                              .out = to.out.view().sliced(2, n, n + 1),
                              .lse = to.lse.view().sliced(2, n, n + 1)};
    };
    for (std::int64_t n = 0; n < count; ++n) {
      cache.append_to(0, model.keys(n, n + 1), model.values(n, n + 1));
      paged.append(sequence, model.keys(n, n + 1), model.values(n, n + 1));
      attention(cache.bind(step(outputs, n)), {.causal = Causal::bottom_right()});
      attention(paged.bind(step(paged_outputs, n), std::array{sequence}),
                {.causal = Causal::bottom_right()});
    }
    CHECK(difference(outputs, expected) == "");
    CHECK(bit_difference(outputs, paged_outputs) == "");
  }
}

TEST_CASE("A rolling cache with a window gives what a long one gives") {
  constexpr std::int64_t window = 10, chunk = 4, count = 60;
  const Model model(DType::bf16, count, 9);
  const AttentionOptions options{.causal = Causal::bottom_right(),
                                 .window = Window{window - 1, {}}};
  const KvCache::Settings settings{.num_kv_heads = num_kv_heads,
                                   .capacity = count,
                                   .head_dim = head_dim,
                                   .v_head_dim = v_head_dim,
                                   .dtype = DType::bf16};
  KvCache::Settings short_settings = settings;
  short_settings.capacity = window - 1 + chunk;
  short_settings.rolling = true;
  KvCache whole(settings), rolling(short_settings);
  for (std::int64_t n = 0; n < count; n += chunk) {
    for (KvCache* cache : {&whole, &rolling})
      cache->append_to(0, model.keys(n, n + chunk), model.values(n, n + chunk));
    const Case c = case_of({&model, 0, n + chunk}, chunk, static_cast<std::uint64_t>(n));
    const Inputs inputs = make_inputs(c);
    Outputs long_outputs = make_outputs(c), rolling_outputs = make_outputs(c);
    attention(
        whole.bind(
            {.q = inputs.q.view(), .out = long_outputs.out.view(), .lse = long_outputs.lse.view()}),
        options);
    attention(rolling.bind({.q = inputs.q.view(),
                            .out = rolling_outputs.out.view(),
                            .lse = rolling_outputs.lse.view()}),
              options);
    CHECK(difference(rolling_outputs.out.values(), long_outputs.out.values(), 1e-6) == "");
  }
}
