// A decoder whose layers differ in window, heads, RoPE and MLP.
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "support/plain_block.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr std::int64_t hidden = 40, vocab = 30, batch = 2, seq = 7;

/// The attention of the first layer has RoPE and a window, that of the second other heads.
BlockCase attention_case(DType dtype, bool first) {
  BlockCase c;
  c.settings.dtype = dtype;
  if (first) {
    c.settings.rope = RopeSettings{};
    c.settings.options.window = Window{.left = 2, .right = {}};
  } else {
    c.settings.num_q_heads = 6;
    c.settings.num_kv_heads = 3;
    c.settings.head_dim = 8;
    c.settings.max_positions = 64;
  }
  return c;
}

/// Settings and weights of two layers, and the decoder's embedding.
struct UnlikeLayers {
  explicit UnlikeLayers(DType dtype)
      : first(attention_case(dtype, true)),
        second(attention_case(dtype, false)),
        one(first, 1),
        two(second, 2),
        embedding(one.normal({vocab, hidden}, 0, 1)),
        scale(one.normal({hidden}, 1, 0.1)),
        gate(one.matrix(56, hidden)),
        up(one.matrix(56, hidden)),
        down(one.matrix(hidden, 56)),
        other_up(two.matrix(24, hidden)),
        other_down(two.matrix(hidden, 24)) {
    settings = {{.attention = first.settings, .mlp = MlpKind::swiglu, .mlp_width = 56},
                {.attention = second.settings, .mlp = MlpKind::gelu, .mlp_width = 24}};
    const NormWeights norm{.scale = scale.view()};
    weights = {.embedding = embedding.view(), .final_norm = norm};
    weights.layers = {{.attention_norm = norm,
                       .attention = one.weights(),
                       .mlp_norm = norm,
                       .mlp = {.gate = {gate.view()}, .up = {up.view()}, .down = {down.view()}}},
                      {.attention_norm = norm,
                       .attention = two.weights(),
                       .mlp_norm = norm,
                       .mlp = {.up = {other_up.view()}, .down = {other_down.view()}}}};
  }
  UnlikeLayers(const UnlikeLayers&) = delete;
  UnlikeLayers& operator=(const UnlikeLayers&) = delete;

  /// The embeddings of the tokens begin..end-1 of all sequences.
  Tensor embedded(const std::vector<std::int64_t>& ids, std::int64_t begin,
                  std::int64_t end) const {
    Tensor x(DType::f32, {batch, end - begin, hidden});
    for (std::int64_t n = 0; n < batch * (end - begin); ++n) {
      const std::int64_t at = n / (end - begin) * seq + begin + n % (end - begin);
      const std::int64_t id = ids[static_cast<std::size_t>(at)];
      copy_into(embedding.view().sliced(0, id, id + 1),
                {x.data<float>() + n * hidden, {1, hidden}});
    }
    return x;
  }

  BlockCase first, second;
  BlockData one, two;
  StridedTensor embedding, scale, gate, up, down, other_up, other_down;
  std::vector<LayerSettings> settings;
  DecoderWeights weights;
};

}  // namespace

TEST_CASE("A decoder of unlike layers is those layers, one after another, bit for bit") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    CAPTURE(name_of(dtype));
    const UnlikeLayers layers(dtype);
    Decoder decoder({.layers = layers.settings, .vocab_size = vocab}, layers.weights);
    std::vector<KvCache> caches = make_caches(decoder.settings(), batch, seq);
    const std::vector<CacheRef> refs(caches.begin(), caches.end());
    CHECK(caches[0].settings().num_kv_heads == 2);
    CHECK(caches[1].settings().num_kv_heads == 3);
    CHECK(caches[1].settings().head_dim == 8);
    TransformerLayer alone[] = {{layers.settings[0], layers.weights.layers[0]},
                                {layers.settings[1], layers.weights.layers[1]}};
    std::vector<KvCache> own_caches = make_caches(decoder.settings(), batch, seq);

    const std::vector<std::int64_t> ids = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7};
    const TensorView all_ids(ids.data(), {batch, seq});
    std::vector<Tensor> streams;
    const ForwardHooks hooks{
        .layer = [&](const TensorView& x) { streams.push_back(copy_as(x, DType::f32)); }};
    // A prompt, then steps of one token.
    for (const auto& [begin, end] : {std::pair<std::int64_t, std::int64_t>{0, 5}, {5, 6}, {6, 7}}) {
      streams.clear();
      decoder.forward(all_ids.sliced(1, begin, end), refs, {}, {.hooks = &hooks});
      REQUIRE(streams.size() == 2);
      Tensor x = layers.embedded(ids, begin, end);
      for (std::size_t n = 0; n < 2; ++n) {
        alone[n].forward(x.view(), own_caches[n]);
        CHECK(std::memcmp(x.data(), streams[n].data(), x.size_in_bytes()) == 0);
      }
    }
  }
}
