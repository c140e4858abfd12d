// Decoders: a forward that throws changes no cache; kernels of attention agree; tied and untied
// outputs; hooks and times.
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "support/check_fails.hpp"
#include "support/decoder_case.hpp"

using namespace attn;
using namespace attn::test;

namespace {

std::vector<double> logits_of(Decoder& decoder, const ForwardOptions& options = {}) {
  StridedTensor logits(DType::f32, {2, 6, vocab});
  std::vector<KvCache> caches = make_caches(decoder.settings(), 2, 6);
  decoder.forward(id_view, std::vector<CacheRef>(caches.begin(), caches.end()), logits.view(),
                  options);
  return logits.values();
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (std::size_t n = 0; n < a.size(); ++n) largest = std::max(largest, std::fabs(a[n] - b[n]));
  return largest;
}

}  // namespace

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
  // A hook throws, before or behind each layer.
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
  // The next forward gives what it would have given without the failures.
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
    Tensor transposed(DType::f32, {hidden, vocab});
    copy_into(c.embedding.view().permuted({1, 0}), transposed.view());
    untied.output = transposed.view().permuted({1, 0});
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
  TransformerLayer layer(c.settings.layers[1], c.weights.layers[1]);
  Tensor x = copy_as(streams[0].view(), DType::f32);
  layer.forward({x.data(), DType::f32, {2, 6, hidden}}, {}, {});
  for (std::int64_t n = 0; n < x.size(); ++n)
    CHECK(std::fabs(x.data<float>()[n] - streams[1].data<float>()[n]) < 1e-4);
}
