// Blocks and decoders with rolling caches: every token sees its whole window, whatever the capacity
// and however a text is cut into forwards, or the forward is refused before anything changes.
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "support/check_fails.hpp"
#include "support/decoder_case.hpp"
#include "support/plain_block.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr std::int64_t left = 5, seq = 23;

BlockCase windowed(std::optional<Window> window, std::int64_t batch = 1) {
  BlockCase c{.biases = true, .qk_norms = true, .batch = batch, .seq = seq};
  c.settings.rope = RopeSettings{.theta = 100};
  c.settings.options.window = window;
  return c;
}

KvCache rolling(const BlockCase& c, std::int64_t capacity, DType dtype = DType::f32) {
  return KvCache({.batch = c.batch,
                  .num_kv_heads = c.settings.num_kv_heads,
                  .capacity = capacity,
                  .head_dim = c.settings.head_dim,
                  .dtype = dtype,
                  .rolling = true});
}

/// Runs the tokens from `begin` on through a block, in pieces of `chunk` tokens.
StridedTensor in_chunks(AttentionBlock& block, const BlockData& data, KvCache& cache,
                        std::int64_t chunk, const ForwardOptions& options = {}) {
  StridedTensor y(DType::f32, data.x.shape());
  for (std::int64_t begin = 0; begin < seq; begin += chunk) {
    const std::int64_t end = std::min(seq, begin + chunk);
    block.forward(data.x.view().sliced(1, begin, end), cache, y.view().sliced(1, begin, end),
                  options);
  }
  return y;
}

}  // namespace

TEST_CASE("Each token sees its whole window, in chunks of any length and capacities from it on") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    BlockCase c = windowed(Window{left, {}});
    c.settings.dtype = dtype;
    const BlockData data(c);
    const Wanted wanted(c, data);
    AttentionBlock block(c.settings, data.weights());
    for (const std::int64_t capacity : {left + 1, left + 2, 2 * left, seq - 1, seq, 2 * seq}) {
      for (const std::int64_t chunk : {seq, left + 4, left, std::int64_t{1}}) {
        CAPTURE(capacity);
        CAPTURE(chunk);
        KvCache cache = rolling(c, capacity, dtype);
        CHECK(wanted.difference(in_chunks(block, data, cache, chunk).values()) == "");
        CHECK(cache.position(0) == seq);
        CHECK(cache.length(0) == std::min(seq, capacity));
      }
    }
  }
}

TEST_CASE("Every kernel of attention divides a forward alike; a window of the token alone") {
  for (const std::int64_t each : {left, std::int64_t{0}}) {
    const BlockCase c = windowed(Window{each, 0});
    const BlockData data(c);
    const Wanted wanted(c, data);
    AttentionBlock block(c.settings, data.weights());
    for (const AttentionKernel kernel :
         {AttentionKernel::tiled, AttentionKernel::unfused, AttentionKernel::reference}) {
      KvCache cache = rolling(c, each + 1);
      CHECK(wanted.difference(in_chunks(block, data, cache, seq, {.kernel = kernel}).values()) ==
            "");
    }
  }
}

TEST_CASE(
    "Without a window, a token sees the last keys that the capacity holds, its own included") {
  const BlockCase c = windowed({});
  const BlockData data(c);
  AttentionBlock block(c.settings, data.weights());
  for (const std::int64_t capacity : {std::int64_t{1}, std::int64_t{7}, seq, 2 * seq}) {
    const Wanted wanted(windowed(Window{capacity - 1, {}}), data);
    for (const std::int64_t chunk : {seq, std::int64_t{9}, std::int64_t{1}}) {
      CAPTURE(capacity);
      CAPTURE(chunk);
      KvCache cache = rolling(c, capacity);
      CHECK(wanted.difference(in_chunks(block, data, cache, chunk).values()) == "");
    }
  }
}

TEST_CASE("Sequences of a batch at different positions") {
  const BlockCase c = windowed(Window{left, {}}, 2), one = windowed(Window{left, {}});
  const BlockData data(c);
  const Wanted wanted(c, data);
  AttentionBlock block(c.settings, data.weights());
  KvCache cache = rolling(c, left + 3), again = rolling(c, left + 3);
  StridedTensor whole(DType::f32, data.x.shape()), y(DType::f32, {2, 12, data.x.shape()[2]});
  block.forward(data.x.view(), cache, whole.view());
  CHECK(wanted.difference(whole.values()) == "");
  // The second sequence begins with 7 tokens of its own; then both get 12 tokens at once.
  StridedTensor start(DType::f32, {1, 7, data.x.shape()[2]});
  block.forward(data.x.view().sliced(0, 1, 2).sliced(1, 0, 7), CacheRef(again, 1), start.view());
  StridedTensor x(DType::f32, y.shape());
  copy_into(data.x.view().sliced(0, 0, 1).sliced(1, 0, 12), x.view().sliced(0, 0, 1));
  copy_into(data.x.view().sliced(0, 1, 2).sliced(1, 7, 19), x.view().sliced(0, 1, 2));
  block.forward(x.view(), again, y.view());
  const auto largest = [&](const TensorView& a, const TensorView& b) {
    const Tensor wide_a = copy_as(a, DType::f64), wide_b = copy_as(b, DType::f64);
    double difference = 0;
    for (std::int64_t n = 0; n < wide_a.size(); ++n)
      difference =
          std::max(difference, std::abs(wide_a.data<double>()[n] - wide_b.data<double>()[n]));
    return difference;
  };
  CHECK(largest(y.view().sliced(0, 0, 1), whole.view().sliced(0, 0, 1).sliced(1, 0, 12)) < 1e-5);
  CHECK(largest(y.view().sliced(0, 1, 2), whole.view().sliced(0, 1, 2).sliced(1, 7, 19)) < 1e-5);
}

TEST_CASE("A window wider than the capacity is refused before a token would miss a key") {
  const BlockCase c = windowed(Window{left, {}});
  const BlockData data(c);
  const Wanted wanted(c, data);
  AttentionBlock block(c.settings, data.weights());
  for (const std::int64_t capacity : {std::int64_t{1}, left}) {
    KvCache cache = rolling(c, capacity);
    StridedTensor y(DType::f32, data.x.shape());
    const auto forward = [&](std::int64_t begin, std::int64_t end) {
      block.forward(data.x.view().sliced(1, begin, end), cache, y.view().sliced(1, begin, end));
    };
    check_fails(ErrorCode::exhausted,
                {"rolling cache, batch entry 0", "23 tokens from position 0", "6 keys",
                 "capacity is " + std::to_string(capacity)},
                [&] { forward(0, seq); });
    CHECK(y.untouched());
    CHECK(cache.position(0) == 0);
    // As long as nothing is overwritten, nothing is missing.
    forward(0, capacity);
    check_fails(ErrorCode::exhausted, {"1 tokens from position " + std::to_string(capacity)},
                [&] { forward(capacity, capacity + 1); });
    CHECK(cache.position(0) == capacity);
  }
}

TEST_CASE("Keys that were overwritten and then truncated away are missed") {
  const BlockCase c = windowed(Window{left, {}});
  const BlockData data(c);
  AttentionBlock block(c.settings, data.weights());
  KvCache cache = rolling(c, left + 3);
  StridedTensor y(DType::f32, data.x.shape());
  const auto forward = [&](std::int64_t begin, std::int64_t end) {
    block.forward(data.x.view().sliced(1, begin, end), cache, y.view().sliced(1, begin, end));
  };
  forward(0, 20);
  cache.truncate(0, 17);  // holds the keys from 12 on, which the token at 17 needs
  forward(17, 20);
  const Wanted wanted(c, data);
  cache.truncate(0, 16);
  check_fails(ErrorCode::exhausted,
              {"the token at position 16 needs the keys from 11 on", "before 12"},
              [&] { forward(16, 17); });
  CHECK(cache.position(0) == 16);
  cache.clear();
  forward(0, seq);
  CHECK(wanted.difference(y.values()) == "");
}

TEST_CASE("Forwards that cannot be divided need room for all of their tokens") {
  const auto check = [](const BlockCase& c, std::int64_t capacity, const ForwardOptions& options) {
    const BlockData data(c);
    const Wanted wanted(c, data);
    AttentionBlock block(c.settings, data.weights());
    StridedTensor y(DType::f32, data.x.shape());
    KvCache small = rolling(c, capacity - 1);
    check_fails(ErrorCode::exhausted, {"23 tokens from position 0", "is not divided"},
                [&] { block.forward(data.x.view(), small, y.view(), options); });
    CHECK(y.untouched());
    CHECK(small.position(0) == 0);
    KvCache cache = rolling(c, capacity);
    block.forward(data.x.view(), cache, y.view(), options);
    CHECK(wanted.difference(y.values()) == "");
  };
  BlockCase later = windowed(Window{left, 2});
  later.settings.options.causal.reset();
  check(later, seq, {});
  BlockCase all = windowed({});
  all.settings.options.causal.reset();
  check(all, seq, {});
  BlockCase modded = windowed(Window{left, {}});
  modded.settings.options.score_mod = [](const KeyRun&, float*) {};
  check(modded, seq, {});
  BlockCase named = windowed(Window{left, {}});
  named.settings.options.causal = Causal::top_left();
  check(named, seq, {});
  const std::vector<float> zeros(seq * seq);
  check(windowed(Window{left, {}}), seq, {.mask = {zeros.data(), {seq, seq}}});
  // After other tokens, those that are still in a window need room too.
  const BlockCase c = windowed(Window{left, {}});
  const BlockData data(c);
  AttentionBlock block(c.settings, data.weights());
  StridedTensor y(DType::f32, data.x.shape());
  for (const std::int64_t capacity : {left + 2, left + 3}) {
    KvCache cache = rolling(c, capacity);
    const std::vector<float> mask(3 * static_cast<std::size_t>(capacity));
    block.forward(data.x.view().sliced(1, 0, 20), cache, y.view().sliced(1, 0, 20));
    const auto masked = [&] {
      block.forward(data.x.view().sliced(1, 20, 23), cache, y.view().sliced(1, 20, 23),
                    {.mask = {mask.data(), {3, capacity}}});
    };
    if (capacity == left + 3)
      masked();
    else
      check_fails(ErrorCode::exhausted, {"3 tokens from position 20", "from 15"}, masked);
  }
  const Wanted wanted(c, data);
  CHECK(wanted.difference(y.values()) == "");
}

TEST_CASE("Without a window to the left, the keys that the capacity holds are needed") {
  BlockCase c = windowed({});
  const BlockData data(c);
  StridedTensor y(DType::f32, data.x.shape());
  const auto forward = [&](AttentionBlock& block, KvCache& cache, std::int64_t begin,
                           std::int64_t end) {
    block.forward(data.x.view().sliced(1, begin, end), cache, y.view().sliced(1, begin, end));
  };
  {
    AttentionBlock block(c.settings, data.weights());
    KvCache cache = rolling(c, 8);
    forward(block, cache, 0, 12);
    cache.truncate(0, 9);
    check_fails(ErrorCode::exhausted,
                {"the token at position 9 needs the keys from 2 on", "before 4"},
                [&] { forward(block, cache, 9, 10); });
  }
  c.settings.options.score_mod = [](const KeyRun&, float*) {};
  AttentionBlock block(c.settings, data.weights());
  KvCache cache = rolling(c, 8);
  forward(block, cache, 0, 6);
  check_fails(ErrorCode::exhausted, {"4 tokens from position 6", "is not divided"},
              [&] { forward(block, cache, 6, 10); });
  forward(block, cache, 6, 8);
  forward(block, cache, 8, 9);
}

TEST_CASE("A forward that fails between its parts takes back the keys of all of them") {
  const BlockCase c = windowed(Window{left, {}});
  const BlockData data(c);
  AttentionBlock block(c.settings, data.weights());
  KvCache cache = rolling(c, 2 * left);
  StridedTensor y(DType::f32, data.x.shape());
  const auto run = [&](std::int64_t begin, std::int64_t end, const ForwardHooks* hooks = nullptr) {
    block.forward(data.x.view().sliced(1, begin, end), cache, y.view().sliced(1, begin, end),
                  {.hooks = hooks});
  };
  int parts = 0;
  const ForwardHooks counting{.attention = [&](auto&, auto&) { ++parts; }};
  run(0, 10, &counting);
  CHECK(parts == 1);
  // 10 keys fit, and 5 of them are needed by the next token.
  for (const int failing : {1, 2}) {
    parts = 0;
    const ForwardHooks throwing{.attention = [&](auto&, auto&) {
      if (++parts == failing) throw std::bad_alloc();
    }};
    cache.clear();
    run(0, 5);
    CHECK_THROWS_AS(run(5, 12, &throwing), std::bad_alloc);
    CHECK(cache.position(0) == 5);
    CHECK(cache.length(0) == (failing == 1 ? 5 : 3));
  }
}

TEST_CASE("A decoder with rolling caches gives the logits of one with ample caches") {
  DecoderCase c;
  for (LayerSettings& layer : c.settings.layers)
    layer.attention.options.window = Window{.left = 2, .right = {}};
  c.settings.layers.back().attention.options.window = Window{.left = 1, .right = {}};
  Decoder decoder(c.settings, c.weights);
  const auto logits_of = [&](std::int64_t capacity, std::int64_t chunk) {
    std::vector<KvCache> caches;
    for (const LayerSettings& layer : c.settings.layers)
      caches.emplace_back(KvCache::Settings{.batch = 2,
                                            .num_kv_heads = layer.attention.num_kv_heads,
                                            .capacity = capacity,
                                            .head_dim = layer.attention.head_dim,
                                            .rolling = true});
    const std::vector<CacheRef> refs(caches.begin(), caches.end());
    std::vector<double> all;
    for (std::int64_t begin = 0; begin < 6; begin += chunk) {
      StridedTensor logits(DType::f32, {2, chunk, vocab});
      decoder.forward(id_view.sliced(1, begin, begin + chunk), refs, logits.view());
      const std::vector<double> values = logits.values();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  for (const std::int64_t chunk : {6, 3, 1}) {
    const std::vector<double> wanted = logits_of(12, chunk);
    for (const std::int64_t capacity : {3, 4, 5}) {
      const std::vector<double> got = logits_of(capacity, chunk);
      double largest = 0;
      for (std::size_t n = 0; n < got.size(); ++n)
        largest = std::max(largest, std::abs(got[n] - wanted[n]));
      CHECK(largest < 1e-4);
    }
    check_fails(ErrorCode::exhausted, {"layer 0: rolling cache", "capacity is 2"},
                [&] { logits_of(2, chunk); });
  }
}
