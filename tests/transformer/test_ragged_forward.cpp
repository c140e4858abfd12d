// Ragged forwards: sequences of different length in one forward, each with the bits that it has
// alone.
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "support/check_fails.hpp"
#include "support/decoder_case.hpp"

using namespace attn;
using namespace attn::test;

namespace {

using Ids = std::vector<std::int64_t>;

Ids offsets_of(const std::vector<Ids>& texts) {
  Ids offsets{0};
  for (const Ids& text : texts) offsets.push_back(offsets.back() + std::ssize(text));
  return offsets;
}

Ids joined(const std::vector<Ids>& texts) {
  Ids all;
  for (const Ids& text : texts) all.insert(all.end(), text.begin(), text.end());
  return all;
}

Ids text_of(std::int64_t length, std::int64_t start) {
  Ids tokens(static_cast<std::size_t>(length));
  for (std::size_t n = 0; n < tokens.size(); ++n)
    tokens[n] =
        (start + 7 * static_cast<std::int64_t>(n * n) + 3 * static_cast<std::int64_t>(n)) % vocab;
  return tokens;
}

/// Texts whose rows oneDNN multiplies, the micro-kernel does, or both do, and a long one.
std::vector<Ids> texts() {
  std::vector<Ids> all;
  for (const std::int64_t length : {5, 1, 19, 300, 8, 7, 0, 33, 2, 64})
    all.push_back(text_of(length, length));
  return all;
}

/// One more token for each text.
std::vector<Ids> steps(std::int64_t start) {
  std::vector<Ids> all(texts().size());
  for (std::size_t n = 0; n < all.size(); ++n)
    all[n] = {(start + 11 * static_cast<std::int64_t>(n)) % vocab};
  return all;
}

enum class Kind { contiguous, paged, rolling };

/// The caches of all layers for some sequences.
struct Caches {
  Caches(const DecoderSettings& settings, std::int64_t batch, Kind kind) {
    for (const LayerSettings& layer : settings.layers) {
      const AttentionSettings& a = layer.attention;
      if (kind == Kind::paged) {
        pools.emplace_back(PagedKvCache::Settings{.num_pages = 120,
                                                  .page_size = 8,
                                                  .num_kv_heads = a.num_kv_heads,
                                                  .head_dim = a.head_dim,
                                                  .dtype = a.dtype});
      } else {
        caches.emplace_back(KvCache::Settings{.batch = batch,
                                              .num_kv_heads = a.num_kv_heads,
                                              .capacity = kind == Kind::rolling ? 9 : 320,
                                              .head_dim = a.head_dim,
                                              .dtype = a.dtype,
                                              .rolling = kind == Kind::rolling});
      }
    }
    sequences.resize(static_cast<std::size_t>(batch));
    std::iota(sequences.begin(), sequences.end(), 0);
    for (PagedKvCache& pool : pools) {
      for (std::int64_t n = 0; n < batch; ++n) pool.create();
      refs.emplace_back(pool, sequences);
    }
    for (KvCache& cache : caches) refs.emplace_back(cache);
  }

  std::vector<KvCache> caches;
  std::vector<PagedKvCache> pools;
  std::vector<PagedKvCache::Sequence> sequences;
  std::vector<CacheRef> refs;
};

/// Logits of all tokens, ragged.
std::vector<float> ragged(Decoder& decoder, Caches& caches, const std::vector<Ids>& all) {
  const Ids tokens = joined(all), offsets = offsets_of(all);
  std::vector<float> logits(tokens.size() * static_cast<std::size_t>(vocab));
  decoder.forward({tokens.data(), {1, std::ssize(tokens)}}, caches.refs,
                  {logits.data(), {1, std::ssize(tokens), vocab}},
                  {.q_offsets = {offsets.data(), {std::ssize(offsets)}}});
  return logits;
}

std::vector<float> dense(Decoder& decoder, Caches& caches, const Ids& tokens) {
  std::vector<float> logits(tokens.size() * static_cast<std::size_t>(vocab));
  decoder.forward({tokens.data(), {1, std::ssize(tokens)}}, caches.refs,
                  {logits.data(), {1, std::ssize(tokens), vocab}});
  return logits;
}

DecoderCase decoder_case(DType dtype, NormPlacement placement = NormPlacement::before) {
  DecoderCase c(NormKind::rms, MlpKind::geglu, dtype);
  for (std::size_t n = 0; n < c.settings.layers.size(); ++n) {
    LayerSettings& layer = c.settings.layers[n];
    layer.norm_placement = placement;
    layer.attention.max_positions = 400;
    if (n == 1) layer.attention.options.window = Window{.left = 6, .right = {}};
    LayerWeights& weights = c.weights.layers[n];
    if (placement != NormPlacement::before) {
      weights.attention_post_norm = weights.attention_norm;
      weights.mlp_post_norm = weights.mlp_norm;
    }
    if (placement == NormPlacement::after || placement == NormPlacement::after_sum)
      weights.attention_norm = weights.mlp_norm = {};
  }
  return c;
}

/// A decoder of one layer in which every product has more than 512 inputs: oneDNN adds them up in
/// parts, and the micro-kernel does not, so that a row's bits show who multiplied it.
struct WideLayer {
  explicit WideLayer(DType dtype) : data(block(dtype)) {
    embedding = data.normal({vocab, width}, 0, 1);
    scale = data.normal({width}, 1, 0.1);
    for (StridedTensor* matrix : {&gate, &up, &down}) *matrix = data.matrix(width, width);
    settings = {.layers = {{.attention = block(dtype).settings,
                            .mlp = MlpKind::swiglu,
                            .mlp_width = width}},
                .vocab_size = vocab};
    const NormWeights norm{.scale = scale.view()};
    weights = {.embedding = embedding.view(),
               .layers = {{.attention_norm = norm,
                           .attention = data.weights(),
                           .mlp_norm = norm,
                           .mlp = {{gate.view()}, {up.view()}, {down.view()}}}},
               .final_norm = norm};
  }

  static BlockCase block(DType dtype) {
    BlockCase c;
    c.settings.hidden = width;
    c.settings.num_q_heads = 10;
    c.settings.num_kv_heads = 1;
    c.settings.head_dim = width / 10;
    c.settings.max_positions = 400;
    c.settings.dtype = dtype;
    return c;
  }

  static constexpr std::int64_t width = 640;
  BlockData data;
  StridedTensor embedding, scale, gate, up, down;
  DecoderSettings settings;
  DecoderWeights weights;
};

/// Compares a ragged forward of the texts, and two steps of all of them, with forwards of each.
void check_bits_of_each(const DecoderSettings& settings, const DecoderWeights& weights, Kind kind) {
  Decoder decoder(settings, weights);
  const std::vector<Ids> prompts = texts();
  Caches together(settings, std::ssize(prompts), kind);
  std::vector<Caches> alone;
  for (std::size_t n = 0; n < prompts.size(); ++n) alone.emplace_back(settings, 1, kind);
  for (const std::vector<Ids>& part : {prompts, steps(3), steps(17)}) {
    const std::vector<float> got = ragged(decoder, together, part);
    const Ids offsets = offsets_of(part);
    for (std::size_t n = 0; n < part.size(); ++n) {
      CAPTURE(n);
      if (part[n].empty()) continue;
      const std::vector<float> wanted = dense(decoder, alone[n], part[n]);
      CHECK(std::memcmp(got.data() + offsets[n] * vocab, wanted.data(),
                        wanted.size() * sizeof(float)) == 0);
    }
  }
}

}  // namespace

TEST_CASE("A ragged forward gives each sequence the bits that it has alone, in every cache") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Kind kind : {Kind::contiguous, Kind::paged, Kind::rolling}) {
      CAPTURE(name_of(dtype));
      CAPTURE(static_cast<int>(kind));
      DecoderCase c = decoder_case(dtype);
      if (kind == Kind::rolling) {
        for (LayerSettings& layer : c.settings.layers)
          layer.attention.options.window = Window{.left = 6, .right = {}};
      }
      check_bits_of_each(c.settings, c.weights, kind);
    }
  }
}

TEST_CASE("A ragged forward has these bits where oneDNN and the micro-kernel round differently") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    CAPTURE(name_of(dtype));
    const WideLayer c(dtype);
    check_bits_of_each(c.settings, c.weights, Kind::contiguous);
  }
}

TEST_CASE("Ragged forwards with norms anywhere, and logits of last tokens") {
  for (const NormPlacement placement : {NormPlacement::before, NormPlacement::after,
                                        NormPlacement::both, NormPlacement::after_sum}) {
    const DecoderCase c = decoder_case(DType::f32, placement);
    Decoder decoder(c.settings, c.weights);
    const std::vector<Ids> all = {text_of(4, 1), text_of(12, 2), text_of(1, 3)};
    Caches together(c.settings, 3, Kind::contiguous), again(c.settings, 3, Kind::contiguous);
    const std::vector<float> every = ragged(decoder, together, all);
    const Ids tokens = joined(all), offsets = offsets_of(all);
    std::vector<float> last(static_cast<std::size_t>(3 * vocab));
    decoder.forward({tokens.data(), {1, 17}}, again.refs, {last.data(), {3, vocab}},
                    {.q_offsets = {offsets.data(), {4}}});
    for (std::size_t n = 0; n < 3; ++n) {
      CHECK(std::memcmp(last.data() + n * static_cast<std::size_t>(vocab),
                        every.data() + (offsets[n + 1] - 1) * vocab,
                        static_cast<std::size_t>(vocab) * sizeof(float)) == 0);
      Caches alone(c.settings, 1, Kind::contiguous);
      const std::vector<float> wanted = dense(decoder, alone, all[n]);
      CHECK(std::memcmp(every.data() + offsets[n] * vocab, wanted.data(),
                        wanted.size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("A ragged forward that fails half-way leaves every cache as it was") {
  const DecoderCase c = decoder_case(DType::f32);
  Decoder decoder(c.settings, c.weights);
  const std::vector<Ids> all = {text_of(4, 1), text_of(12, 2), {}};
  for (const Kind kind : {Kind::contiguous, Kind::paged}) {
    Caches caches(c.settings, 3, kind), fresh(c.settings, 3, kind);
    const Ids tokens = joined(all), offsets = offsets_of(all);
    int calls = 0;
    const ForwardHooks hooks{.layer = [&](auto&) {
      if (++calls == 2) throw std::bad_alloc();
    }};
    CHECK_THROWS_AS(decoder.forward({tokens.data(), {1, 16}}, caches.refs, {},
                                    {.q_offsets = {offsets.data(), {4}}, .hooks = &hooks}),
                    std::bad_alloc);
    for (const KvCache& cache : caches.caches) {
      for (std::int64_t n = 0; n < 3; ++n) CHECK(cache.length(n) == 0);
    }
    for (const PagedKvCache& pool : caches.pools) CHECK(pool.free_pages() == 120);
    CHECK(ragged(decoder, caches, all) == ragged(decoder, fresh, all));
  }
}

TEST_CASE("Offsets that do not fit are refused before anything changes") {
  const DecoderCase c = decoder_case(DType::f32);
  Decoder decoder(c.settings, c.weights);
  Caches caches(c.settings, 2, Kind::contiguous);
  const Ids tokens = text_of(6, 1);
  Tensor logits(DType::f32, {2, vocab});
  const std::int32_t lengths[] = {3, 3};
  const auto refused = [&](const std::vector<std::string>& fragments, const Ids& offsets,
                           ForwardOptions options = {}, const Dims& shape = {1, 6}) {
    options.q_offsets = {offsets.data(), {std::ssize(offsets)}};
    check_fails(ErrorCode::invalid_argument, fragments, [&] {
      decoder.forward({tokens.data(), shape}, caches.refs, logits.view(), options);
    });
    CHECK(caches.caches[0].length(0) == 0);
  };
  refused({"q_offsets[0] is 1", "0"}, {1, 3, 6});
  refused({"q_offsets[2] is 2", "4 or more"}, {0, 4, 2});
  refused({"q_offsets[1] is 7", "at most the 6 tokens"}, {0, 7, 6});
  refused({"q_offsets ends with 5", "6"}, {0, 3, 5});
  refused({"a batch of", "4"}, {0, 2, 4, 6, 6});
  refused({"sequence 1 of ids has no tokens"}, {0, 6, 6});
  refused({"batch of 2", "[1, tokens]"}, {0, 3, 6}, {}, {2, 3});
  refused({"kv_lens", "q_offsets"}, {0, 3, 6}, {.kv_lens = {lengths, {2}}});
  const float numbers[] = {0, 3, 6};
  check_fails(ErrorCode::invalid_argument, {"q_offsets", "f32"}, [&] {
    decoder.forward({tokens.data(), {1, 6}}, caches.refs, logits.view(),
                    {.q_offsets = {numbers, {3}}});
  });
}
