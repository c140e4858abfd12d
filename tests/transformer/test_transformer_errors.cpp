// What attention blocks, layers and decoders refuse. Caches and outputs stay as they were.
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <array>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "support/check_fails.hpp"
#include "support/decoder_case.hpp"

using namespace attn;
using namespace attn::test;

namespace {

void refused(const std::vector<std::string>& fragments, const std::function<void()>& f) {
  check_fails(ErrorCode::invalid_argument, fragments, f);
}

}  // namespace

TEST_CASE("Weights that do not fit are named") {
  const BlockCase c{.biases = true, .qk_norms = true, .alibi = true, .sinks = true};
  const BlockData data(c);
  const StridedTensor narrow(DType::f32, {48, 39}), vector(DType::f32, {39}),
      integers(DType::i32, {48, 40});
  using Change = std::function<void(AttentionParameters&)>;
  const std::vector<std::pair<std::vector<std::string>, Change>> changes = {
      {{"q.weight has shape [48, 39]", "40"}, [&](auto& w) { w.q.weight = narrow.view(); }},
      {{"k.weight has shape [48, 39]", "24"}, [&](auto& w) { w.k.weight = narrow.view(); }},
      {{"v.weight has shape [39]", "rank 2"}, [&](auto& w) { w.v.weight = vector.view(); }},
      {{"out.weight", "rank 2"}, [&](auto& w) { w.out.weight = {}; }},
      {{"q.weight has type i32"}, [&](auto& w) { w.q.weight = integers.view(); }},
      {{"k.weight", "no data"}, [&](auto& w) { w.k.weight.data = nullptr; }},
      {{"q.bias has shape [39]", "48"}, [&](auto& w) { w.q.bias = vector.view(); }},
      {{"k.bias", "24"}, [&](auto& w) { w.k.bias = vector.view(); }},
      {{"v.bias", "24"}, [&](auto& w) { w.v.bias = vector.view(); }},
      {{"out.bias has shape [39]", "40"}, [&](auto& w) { w.out.bias = vector.view(); }},
      {{"q_norm has shape [39]", "12"}, [&](auto& w) { w.q_norm = vector.view(); }},
      {{"k_norm has shape [39]", "12"}, [&](auto& w) { w.k_norm = vector.view(); }},
      {{"alibi_slopes has shape [39]", "4"}, [&](auto& w) { w.alibi_slopes = vector.view(); }},
      {{"sinks has shape [39]", "4"}, [&](auto& w) { w.sinks = vector.view(); }},
      {{"sinks", "no data"}, [&](auto& w) { w.sinks.data = nullptr; }},
  };
  for (const auto& [fragments, change] : changes) {
    AttentionParameters weights = data.weights();
    change(weights);
    refused(fragments, [&] { AttentionBlock(c.settings, weights); });
  }
}

TEST_CASE("Settings that make no block are named") {
  const BlockCase c;
  const BlockData data(c);
  using Change = std::function<void(AttentionSettings&)>;
  const std::vector<std::pair<std::vector<std::string>, Change>> changes = {
      {{"hidden is 0"}, [](auto& s) { s.hidden = 0; }},
      {{"num_q_heads is 0"}, [](auto& s) { s.num_q_heads = 0; }},
      {{"num_kv_heads is 0"}, [](auto& s) { s.num_kv_heads = 0; }},
      {{"num_q_heads is 4", "multiple of num_kv_heads = 3"}, [](auto& s) { s.num_kv_heads = 3; }},
      {{"head_dim is -1"}, [](auto& s) { s.head_dim = -1; }},
      {{"max_positions is 0"}, [](auto& s) { s.max_positions = 0; }},
      {{"dtype is f16"}, [](auto& s) { s.dtype = DType::f16; }},
      {{"rope.rotary_dim is 14"}, [](auto& s) { s.rope = RopeSettings{.rotary_dim = 14}; }},
      {{"softcap is -1"}, [](auto& s) { s.options.softcap = -1.f; }},
      {{"window left is -2"},
       [](auto& s) {
         s.options.window = Window{-2, {}};
       }},
      {{"qk_norm.epsilon is -1"}, [](auto& s) { s.qk_norm.epsilon = -1; }},
  };
  for (const auto& [fragments, change] : changes) {
    AttentionSettings settings = c.settings;
    change(settings);
    refused(fragments, [&] { AttentionBlock(settings, data.weights()); });
  }
  refused({"num_threads is 0"},
          [&] { AttentionBlock(c.settings, data.weights(), {.num_threads = 0}); });
  AttentionSettings with_block_mask = c.settings;
  with_block_mask.options.block_mask = BlockMask::from_ranges({}, {.q_len = 1, .kv_len = 1});
  check_fails(ErrorCode::unsupported, {"block_mask", "forward"},
              [&] { AttentionBlock(with_block_mask, data.weights()); });
}

TEST_CASE("Forwards that do not fit leave y and the cache as they were") {
  BlockCase c{.batch = 2, .seq = 3};
  c.settings.max_positions = 4;
  const BlockData data(c);
  AttentionBlock block(c.settings, data.weights());
  KvCache::Settings fitting{.batch = 2, .num_kv_heads = 2, .capacity = 8, .head_dim = 12};
  KvCache cache(fitting);
  StridedTensor y(DType::f32, {2, 3, hidden}), x_wide(DType::f32, {2, 3, 41}),
      integers(DType::i32, {2, 3, hidden});
  const StridedTensor mask(DType::f32, {4, 8}), long_mask(DType::f32, {3, 9}),
      lengths(DType::i64, {2});
  const TensorView x = data.x.view();
  const auto fails = [&](ErrorCode code, const std::vector<std::string>& fragments,
                         const TensorView& from, const CacheRef& to,
                         const ForwardOptions& options = {}) {
    for (const AttentionKernel kernel :
         {AttentionKernel::tiled, AttentionKernel::unfused, AttentionKernel::reference}) {
      ForwardOptions with_kernel = options;
      with_kernel.kernel = kernel;
      check_fails(code, fragments, [&] { block.forward(from, to, y.view(), with_kernel); });
    }
    CHECK(y.untouched());
    CHECK(cache.position(0) == 0);
  };
  constexpr ErrorCode invalid = ErrorCode::invalid_argument;
  fails(invalid, {"x has shape [2, 3, 41]", "40 (hidden)"}, x_wide.view(), cache);
  fails(invalid, {"x has type i32"}, integers.view(), cache);
  fails(invalid, {"x has shape [3, 40]", "rank 3"}, TensorView(x.data, {}, {3, hidden}), cache);
  refused({"y has shape [2, 3, 41]"}, [&] { block.forward(x, cache, x_wide.view()); });
  fails(invalid, {"mask has shape [4, 8]", "3"}, x, cache, {.mask = mask.view()});
  fails(invalid, {"mask has shape [3, 9]", "kv_len is 8"}, x, cache, {.mask = long_mask.view()});
  fails(invalid, {"mask", "no data"}, x, cache, {.mask = TensorView(nullptr, DType::f32, {3, 8})});
  fails(invalid, {"kv_lens is given", "absent"}, x, cache, {.kv_lens = lengths.view()});
  fails(invalid, {"kv_lens[0] is -1"}, x, {}, {.kv_lens = lengths.view()});
  fails(invalid, {"batch", "1"}, x, CacheRef(cache, 1));
  refused({"sequence is 2"},
          [&] { block.forward(x.sliced(0, 0, 1), CacheRef(cache, 2), y.view().sliced(0, 0, 1)); });
  for (auto [change, fragment] : {std::pair{&KvCache::Settings::batch, "batch"},
                                  {&KvCache::Settings::num_kv_heads, "num_kv_heads"},
                                  {&KvCache::Settings::head_dim, "head_dim"}}) {
    KvCache::Settings other = fitting;
    other.*change = 3;
    KvCache other_cache(other);
    fails(invalid, {fragment, "3"}, x, other_cache);
  }
  KvCache small({.batch = 2, .num_kv_heads = 2, .capacity = 2, .head_dim = 12});
  fails(ErrorCode::exhausted, {"3 tokens", "room for 2", "capacity 2"}, x, small);
  CHECK(small.position(0) == 0);
  block.forward(x, cache, y.view());
  check_fails(invalid, {"at position 3", "4 positions"},
              [&] { block.forward(x, cache, y.view()); });
  CHECK(cache.position(0) == 3);
}

TEST_CASE(
    "A pool that runs out of pages in the middle of a batch changes no sequence; no sequence comes "
    "twice") {
  BlockCase c{.batch = 3, .seq = 4};
  const BlockData data(c);
  AttentionBlock block(c.settings, data.weights());
  PagedKvCache cache({.num_pages = 5, .page_size = 2, .num_kv_heads = 2, .head_dim = 12});
  const std::array sequences{cache.create(), cache.create(), cache.create()};
  StridedTensor y(DType::f32, data.x.shape());
  check_fails(ErrorCode::exhausted, {"pages", "free"}, [&] {
    block.forward(data.x.view(), {cache, sequences}, y.view());
  });
  CHECK(y.untouched());
  CHECK(cache.free_pages() == 5);
  for (const auto sequence : sequences) CHECK(cache.length(sequence) == 0);
  const std::array twice{sequences[0], sequences[1], sequences[0]};
  refused({"sequence 0 stands twice"}, [&] {
    block.forward(data.x.view(), {cache, twice}, y.view());
  });
  const std::array unknown{sequences[0], sequences[1], PagedKvCache::Sequence{9}};
  refused({"sequence 9 does not exist"}, [&] {
    block.forward(data.x.view(), {cache, unknown}, y.view());
  });
  refused({"batch of 2"}, [&] {
    block.forward(data.x.view(), {cache, std::span(sequences).first(2)}, y.view());
  });
  CHECK(cache.free_pages() == 5);
}

TEST_CASE("Layers and decoders name what does not fit") {
  using Change = std::function<void(DecoderCase&)>;
  const std::vector<std::pair<std::vector<std::string>, Change>> changes = {
      {{"settings.layers is empty"}, [](auto& d) { d.settings.layers.clear(); }},
      {{"weights.layers has 3 layers", "2 (settings.layers)"},
       [](auto& d) { d.settings.layers.pop_back(); }},
      {{"layer 2: hidden is 48", "40, as that of layer 0"},
       [](auto& d) { d.settings.layers[2].attention.hidden = 48; }},
      {{"layer 1", "num_q_heads is 6", "multiple of num_kv_heads = 4"},
       [](auto& d) {
         d.settings.layers[1].attention.num_q_heads = 6;
         d.settings.layers[1].attention.num_kv_heads = 4;
       }},
      {{"vocab_size is 0"}, [](auto& d) { d.settings.vocab_size = 0; }},
      {{"embedding", "51"}, [](auto& d) { d.settings.vocab_size = 51; }},
      {{"hidden is 0"}, [](auto& d) { d.settings.layers[0].attention.hidden = 0; }},
      {{"embedding", "rank 2"}, [](auto& d) { d.weights.embedding = {}; }},
      {{"positions has shape [32, 40]", "33"},
       [](auto& d) {
         d.weights.positions = d.positions.view();
         for (LayerSettings& layer : d.settings.layers) layer.attention.max_positions = 33;
       }},
      {{"output has shape [40]", "rank 2"}, [](auto& d) { d.weights.output = d.scale.view(); }},
      {{"norm.epsilon is -1"}, [](auto& d) { d.settings.layers[0].norm.epsilon = -1; }},
      {{"final_norm.scale"}, [](auto& d) { d.weights.final_norm.scale = {}; }},
      {{"final_norm.bias is given"}, [](auto& d) { d.weights.final_norm.bias = d.bias.view(); }},
      {{"layer 1", "attention_norm.bias is given"},
       [](auto& d) { d.weights.layers[1].attention_norm.bias = d.bias.view(); }},
      {{"layer 2", "mlp_norm.scale"}, [](auto& d) { d.weights.layers[2].mlp_norm.scale = {}; }},
      {{"layer 0", "up.weight"},
       [](auto& d) { d.weights.layers[0].mlp.up.weight = d.down.view(); }},
      {{"layer 0", "gate.weight"}, [](auto& d) { d.weights.layers[0].mlp.gate.weight = {}; }},
      {{"layer 0", "down.weight"},
       [](auto& d) { d.weights.layers[0].mlp.down.weight = d.up.view(); }},
      {{"layer 0", "gate.weight is given"},
       [](auto& d) { d.settings.layers[0].mlp = MlpKind::gelu; }},
      {{"layer 0", "mlp_width is 0"}, [](auto& d) { d.settings.layers[0].mlp_width = 0; }},
      {{"layer 1", "sinks"}, [](auto& d) { d.weights.layers[1].attention.sinks = d.scale.view(); }},
  };
  for (const auto& [fragments, change] : changes) {
    DecoderCase decoder;
    change(decoder);
    refused(fragments, [&] { Decoder(decoder.settings, decoder.weights); });
  }
}

TEST_CASE("A decoder's forward is checked before anything changes") {
  const DecoderCase c;
  Decoder decoder(c.settings, c.weights);
  std::vector<KvCache> caches = make_caches(c.settings, 2, 8);
  std::vector<CacheRef> refs(caches.begin(), caches.end());
  StridedTensor logits(DType::f32, {2, vocab}), gaps(DType::f32, {2, vocab}, Layout::padded),
      bf16_logits(DType::bf16, {2, vocab});
  std::vector<std::int32_t> wrong = ids;
  wrong[8] = vocab;
  refused({"ids[1, 2] is 50"}, [&] {
    decoder.forward({wrong.data(), {2, 6}}, refs, logits.view());
  });
  wrong[8] = -1;
  refused({"ids[1, 2] is -1"}, [&] {
    decoder.forward({wrong.data(), {2, 6}}, refs, logits.view());
  });
  refused({"ids has type f32"}, [&] { decoder.forward(logits.view(), refs, logits.view()); });
  refused({"caches are 2", "3 are needed"},
          [&] { decoder.forward(id_view, std::span(refs).first(2), logits.view()); });
  refused({"logits has strides"}, [&] { decoder.forward(id_view, refs, gaps.view()); });
  refused({"logits has type bf16"}, [&] { decoder.forward(id_view, refs, bf16_logits.view()); });
  refused({"logits has shape [2, 50]", "batch"}, [&] {
    decoder.forward(id_view.sliced(0, 0, 1), std::vector<CacheRef>(3), logits.view());
  });
  refused({"ids has no tokens"},
          [&] { decoder.forward(id_view.sliced(1, 0, 0), refs, logits.view()); });
  refused({"layers 0 and 1 have the same cache"}, [&] {
    const std::vector<CacheRef> same = {refs[0], refs[0], refs[2]};
    decoder.forward(id_view, same, logits.view());
  });
  const StridedTensor mask(DType::f32, {5, 8});
  refused({"layer 0", "mask has shape [5, 8]"},
          [&] { decoder.forward(id_view, refs, logits.view(), {.mask = mask.view()}); });
  CHECK(logits.untouched());
  for (const KvCache& cache : caches) CHECK(cache.position(0) == 0);
  decoder.forward(id_view, refs, {});
  for (KvCache& cache : caches) CHECK(cache.position(1) == 6);
  check_fails(ErrorCode::exhausted, {"layer 0", "room for 2"},
              [&] { decoder.forward(id_view, refs, logits.view()); });
  caches[2].truncate(1, 4);
  refused({"layer 2", "position 4", "entry 1", "6"},
          [&] { decoder.forward(id_view.sliced(1, 0, 1), refs, logits.view()); });
}
