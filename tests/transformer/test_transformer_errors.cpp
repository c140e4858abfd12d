// What blocks, layers and decoders refuse, and that caches hold what they held then; hooks and
// times.
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <array>
#include <new>
#include <string>
#include <vector>

#include "support/check_fails.hpp"
#include "support/plain_block.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr std::int64_t hidden = 40, mlp_width = 56, vocab = 50, num_layers = 3;

/// A decoder's random weights.
struct DecoderCase {
  explicit DecoderCase(NormKind norm = NormKind::rms, MlpKind mlp = MlpKind::swiglu,
                       DType dtype = DType::f32) {
    BlockCase block{.biases = true, .qk_norms = norm == NormKind::rms, .batch = 2, .seq = 6};
    block.settings.dtype = dtype;
    block.settings.max_positions = 32;
    if (norm == NormKind::rms) block.settings.rope = RopeSettings{};
    settings = {
        .layer = {.attention = block.settings, .norm = {norm}, .mlp = mlp, .mlp_width = mlp_width},
        .num_layers = num_layers,
        .vocab_size = vocab};
    for (std::uint64_t n = 0; n < num_layers; ++n) blocks.emplace_back(block, n);
    embedding = blocks[0].normal({vocab, hidden}, 0, 1);
    positions = blocks[0].normal({32, hidden}, 0, 1);
    scale = blocks[0].normal({hidden}, 1, 0.1);
    bias = blocks[0].normal({hidden}, 0, 0.1);
    for (StridedTensor* matrix : {&gate, &up}) *matrix = blocks[0].matrix(mlp_width, hidden);
    down = blocks[0].matrix(hidden, mlp_width);
    weights.embedding = embedding.view();
    const NormWeights norms{scale.view(),
                            norm == NormKind::layer ? TensorView(bias.view()) : TensorView{}};
    for (const BlockData& data : blocks) {
      weights.layers.push_back(
          {.attention_norm = norms,
           .attention = data.weights(),
           .mlp_norm = norms,
           .mlp = {.gate = {mlp == MlpKind::swiglu ? TensorView(gate.view()) : TensorView{}},
                   .up = {up.view()},
                   .down = {down.view()}}});
    }
    weights.final_norm = norms;
    if (norm == NormKind::layer) weights.positions = positions.view();
  }

  DecoderSettings settings;
  DecoderWeights weights;
  std::vector<BlockData> blocks;
  StridedTensor embedding, positions, scale, bias, gate, up, down;
};

const std::vector<std::int32_t> ids = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8};
const TensorView id_view(ids.data(), {2, 6});

std::vector<double> logits_of(Decoder& decoder, const ForwardOptions& options = {}) {
  StridedTensor logits(DType::f32, {2, 6, vocab});
  std::vector<KvCache> caches = make_caches(decoder.settings(), 2, 6);
  decoder.forward(id_view, std::vector<CacheRef>(caches.begin(), caches.end()), logits.view(),
                  options);
  return logits.values();
}

void refused(const std::vector<std::string>& words, const std::function<void()>& f) {
  check_fails(ErrorCode::invalid_argument, words, f);
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (std::size_t n = 0; n < a.size(); ++n) largest = std::max(largest, std::fabs(a[n] - b[n]));
  return largest;
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
  for (const auto& [words, change] : changes) {
    AttentionParameters weights = data.weights();
    change(weights);
    refused(words, [&] { AttentionBlock(c.settings, weights); });
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
      {{"qk_norm_epsilon is -1"}, [](auto& s) { s.qk_norm_epsilon = -1; }},
  };
  for (const auto& [words, change] : changes) {
    AttentionSettings settings = c.settings;
    change(settings);
    refused(words, [&] { AttentionBlock(settings, data.weights()); });
  }
  refused({"num_threads is 0"},
          [&] { AttentionBlock(c.settings, data.weights(), {.num_threads = 0}); });
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
  const auto fails = [&](ErrorCode code, const std::vector<std::string>& words,
                         const TensorView& from, const CacheRef& to,
                         const ForwardOptions& options = {}) {
    for (const AttentionKernel kernel :
         {AttentionKernel::tiled, AttentionKernel::unfused, AttentionKernel::reference}) {
      ForwardOptions with_kernel = options;
      with_kernel.kernel = kernel;
      check_fails(code, words, [&] { block.forward(from, to, y.view(), with_kernel); });
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
  for (auto [change, word] : {std::pair{&KvCache::Settings::batch, "batch"},
                              {&KvCache::Settings::num_kv_heads, "num_kv_heads"},
                              {&KvCache::Settings::head_dim, "head_dim"}}) {
    KvCache::Settings other = fitting;
    other.*change = 3;
    KvCache other_cache(other);
    fails(invalid, {word, "3"}, x, other_cache);
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
      {{"num_layers is 0"}, [](auto& d) { d.settings.num_layers = 0; }},
      {{"layers has 3", "4 (num_layers)"}, [](auto& d) { d.settings.num_layers = 4; }},
      {{"vocab_size is 0"}, [](auto& d) { d.settings.vocab_size = 0; }},
      {{"embedding", "51"}, [](auto& d) { d.settings.vocab_size = 51; }},
      {{"hidden is 0"}, [](auto& d) { d.settings.layer.attention.hidden = 0; }},
      {{"embedding", "rank 2"}, [](auto& d) { d.weights.embedding = {}; }},
      {{"positions has shape [32, 40]", "33"},
       [](auto& d) {
         d.weights.positions = d.positions.view(), d.settings.layer.attention.max_positions = 33;
       }},
      {{"output has shape [40]", "rank 2"}, [](auto& d) { d.weights.output = d.scale.view(); }},
      {{"norm.epsilon is -1"}, [](auto& d) { d.settings.layer.norm.epsilon = -1; }},
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
      {{"layer 0", "gate.weight is given"}, [](auto& d) { d.settings.layer.mlp = MlpKind::gelu; }},
      {{"layer 0", "mlp_width is 0"}, [](auto& d) { d.settings.layer.mlp_width = 0; }},
      {{"layer 1", "sinks"}, [](auto& d) { d.weights.layers[1].attention.sinks = d.scale.view(); }},
  };
  for (const auto& [words, change] : changes) {
    DecoderCase decoder;
    change(decoder);
    refused(words, [&] { Decoder(decoder.settings, decoder.weights); });
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

TEST_CASE("A forward that fails halfway leaves every layer's cache as it was") {
  const DecoderCase c;
  Decoder decoder(c.settings, c.weights);
  // The third layer's pages run out.
  std::vector<PagedKvCache> pools;
  for (const std::int64_t pages : {12, 12, 7})
    pools.emplace_back(PagedKvCache::Settings{
        .num_pages = pages, .page_size = 2, .num_kv_heads = 2, .head_dim = 12});
  std::array<PagedKvCache::Sequence, 2> sequences{};
  for (PagedKvCache& pool : pools) sequences = {pool.create(), pool.create()};
  std::vector<CacheRef> refs;
  for (PagedKvCache& pool : pools) refs.emplace_back(pool, sequences);
  StridedTensor first(DType::f32, {2, vocab}), again(DType::f32, {2, vocab});
  decoder.forward(id_view.sliced(1, 0, 4), refs, first.view());
  StridedTensor logits(DType::f32, {2, vocab});
  check_fails(ErrorCode::exhausted, {"free"},
              [&] { decoder.forward(id_view.sliced(1, 0, 5), refs, logits.view()); });
  CHECK(logits.untouched());
  for (const PagedKvCache& pool : pools) CHECK(pool.length(1) == 4);
  // And a hook throws, behind each layer and before.
  std::vector<KvCache> caches = make_caches(c.settings, 2, 12);
  const std::vector<CacheRef> contiguous(caches.begin(), caches.end());
  decoder.forward(id_view.sliced(1, 0, 4), contiguous, first.view());
  for (int failing = 0; failing < 6; ++failing) {
    int calls = 0;
    const auto fail = [&] {
      if (calls++ == failing) throw std::bad_alloc();
    };
    const ForwardHooks hooks{.attention = [&](auto&, auto&) { fail(); },
                             .layer = [&](auto&) { fail(); }};
    CHECK_THROWS_AS(
        decoder.forward(id_view.sliced(1, 4, 6), contiguous, logits.view(), {.hooks = &hooks}),
        std::bad_alloc);
    for (const KvCache& cache : caches) CHECK((cache.position(0) == 4 && cache.position(1) == 4));
  }
  // Goes on as if nothing had happened.
  decoder.forward(id_view.sliced(1, 4, 6), contiguous, again.view());
  const std::vector<double> whole = logits_of(decoder);
  const std::vector<double> last(whole.begin() + 5 * vocab, whole.begin() + 6 * vocab),
      got = again.values();
  CHECK(largest_difference(last, {got.begin(), got.begin() + vocab}) < 1e-4);
}

TEST_CASE(
    "Kernels agree; tied, untied and strided outputs; layers by themselves are the decoder's") {
  for (const auto& [norm, mlp] : {std::pair{NormKind::rms, MlpKind::swiglu},
                                  {NormKind::layer, MlpKind::gelu},
                                  {NormKind::layer, MlpKind::gelu_tanh}}) {
    const DecoderCase c(norm, mlp);
    Decoder decoder(c.settings, c.weights);
    const std::vector<double> logits = logits_of(decoder);
    double largest = 0;
    for (const double value : logits) largest = std::max(largest, std::fabs(value));
    // Each kernel is off by some roundings a layer, of sums of up to 56 products.
    const double tolerance = num_layers * 56 * float_unit * largest;
    CHECK(largest_difference(logits_of(decoder, {.kernel = AttentionKernel::unfused}), logits) <
          tolerance);
    CHECK(largest_difference(logits_of(decoder, {.kernel = AttentionKernel::reference}), logits) <
          tolerance);
    DecoderWeights untied = c.weights;
    untied.output = c.embedding.view();
    Decoder other(c.settings, untied);
    CHECK(logits_of(other) == logits);
    Tensor turned(DType::f32, {hidden, vocab});
    copy_into(c.embedding.view().permuted({1, 0}), turned.view());
    untied.output = turned.view().permuted({1, 0});
    Decoder copied(c.settings, untied);
    CHECK(logits_of(copied) == logits);
    CHECK(copied.size_in_bytes() == decoder.size_in_bytes() + vocab * hidden * 4);
  }
}

TEST_CASE(
    "Hooks see each layer's call and stream, in order; times add up; a layer alone is the "
    "decoder's") {
  const DecoderCase c;
  Decoder decoder(c.settings, c.weights);
  std::vector<std::string> order;
  std::vector<Tensor> streams;
  ForwardTimes times;
  const ForwardHooks hooks{
      .attention =
          [&](const AttentionTensors& tensors, const AttentionOptions& options) {
            order.emplace_back("attention");
            CHECK(tensors.q.shape == Dims{2, 4, 6, 12});
            CHECK(tensors.out.shape == Dims{2, 4, 6, 12});
            CHECK(options.causal.has_value());
          },
      .layer =
          [&](const TensorView& x) {
            order.emplace_back("layer");
            streams.push_back(copy_as(x, DType::f32));
          }};
  logits_of(decoder, {.times = &times, .hooks = &hooks});
  CHECK(order ==
        std::vector<std::string>{"attention", "layer", "attention", "layer", "attention", "layer"});
  for (const auto part : {times.projections, times.attention, times.cache, times.mlp, times.norms,
                          times.embedding, times.output}) {
    CHECK(part.count() > 0);
  }
  TransformerLayer layer(c.settings.layer, c.weights.layers[1]);
  Tensor x = copy_as(streams[0].view(), DType::f32);
  layer.forward({x.data(), DType::f32, {2, 6, hidden}}, {}, {});
  for (std::int64_t n = 0; n < x.size(); ++n)
    CHECK(std::fabs(x.data<float>()[n] - streams[1].data<float>()[n]) < 1e-4);
}
