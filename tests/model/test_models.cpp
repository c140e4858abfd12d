// Small models, whose logits PyTorch computed in double (data/README.md).
#include <attn/attn.hpp>
#include <attn/io.hpp>
#include <attn/model.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

using namespace attn;

namespace {

const std::string models[] = {"llama_tiny", "qwen2_tiny", "qwen3_tiny", "gpt2_tiny"};

struct Golden {
  explicit Golden(const std::string& name)
      : folder(std::string(ATTN_TEST_DATA_PATH) + "/" + name),
        model(folder),
        prompt(tensor("prompt")),
        logits(tensor("logits")) {
    std::ifstream file(folder + "/expected.json");
    expected = nlohmann::json::parse(file);
  }

  Tensor tensor(const std::string& name) const { return read_tensor(folder + "/" + name + ".npy"); }
  Decoder decoder(DType dtype) const {
    DecoderSettings settings = model.settings();
    for (LayerSettings& layer : settings.layers) layer.attention.dtype = dtype;
    return Decoder(settings, model.weights());
  }
  std::int64_t seq() const { return prompt.shape()[1]; }
  std::int64_t vocab() const { return model.settings().vocab_size; }

  /// Twice the error of PyTorch's own run in that type, plus four roundings of the largest logit.
  double tolerance(DType dtype) const {
    const double plain =
        expected[dtype == DType::bf16 ? "torch_bfloat16_error" : "torch_float32_error"];
    const double largest = expected["largest_logit"];
    return 2 * plain + 4 * std::numeric_limits<float>::epsilon() * largest;
  }

  std::string folder;
  ModelFolder model;
  Tensor prompt, logits;
  nlohmann::json expected;
};

/// Logits of the prompt, which goes through a cache in pieces of at most `chunk` tokens.
Tensor prompt_logits(Decoder& decoder, const Golden& golden, std::int64_t chunk,
                     const ForwardOptions& options = {}) {
  Tensor logits(DType::f32, golden.logits.shape());
  std::vector<KvCache> caches = make_caches(decoder.settings(), 1, golden.seq());
  const std::vector<CacheRef> refs(caches.begin(), caches.end());
  for (std::int64_t begin = 0; begin < golden.seq(); begin += chunk) {
    const std::int64_t end = std::min(golden.seq(), begin + chunk);
    const MutableTensorView piece(logits.data<float>() + begin * golden.vocab(),
                                  {1, end - begin, golden.vocab()});
    decoder.forward(golden.prompt.view().sliced(1, begin, end), refs, piece, options);
  }
  return logits;
}

double max_difference(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  double largest = 0;
  for (std::int64_t n = 0; n < a.size(); ++n)
    largest = std::max(largest, std::abs(double{a.data<float>()[n]} - b.data<float>()[n]));
  return largest;
}

std::int64_t greatest(const float* logits, std::int64_t count) {
  return std::max_element(logits, logits + count) - logits;
}

}  // namespace

TEST_CASE("Logits of a prompt, at once, in chunks and token by token, are PyTorch's in double") {
  for (const std::string& name : models) {
    CAPTURE(name);
    const Golden golden(name);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      CAPTURE(name_of(dtype));
      Decoder decoder = golden.decoder(dtype);
      for (const std::int64_t chunk :
           {golden.seq(), std::int64_t{16}, std::int64_t{7}, std::int64_t{1}}) {
        CAPTURE(chunk);
        CHECK(max_difference(prompt_logits(decoder, golden, chunk), golden.logits) <=
              golden.tolerance(dtype));
      }
    }
  }
}

TEST_CASE("Every attention kernel gives these logits") {
  for (const std::string& name : models) {
    CAPTURE(name);
    const Golden golden(name);
    Decoder decoder = golden.decoder(DType::f32);
    for (const AttentionKernel kernel :
         {AttentionKernel::tiled, AttentionKernel::unfused, AttentionKernel::reference}) {
      CHECK(max_difference(prompt_logits(decoder, golden, golden.seq(), {.kernel = kernel}),
                           golden.logits) <= golden.tolerance(DType::f32));
    }
  }
}

TEST_CASE("Greedy generation continues as PyTorch's does") {
  for (const std::string& name : models) {
    CAPTURE(name);
    const Golden golden(name);
    const std::vector<std::int64_t> expected = golden.expected["greedy"];
    Decoder decoder = golden.decoder(DType::f32);
    std::vector<KvCache> caches =
        make_caches(decoder.settings(), 1, golden.seq() + std::ssize(expected));
    const std::vector<CacheRef> refs(caches.begin(), caches.end());
    Tensor logits(DType::f32, {1, golden.vocab()});
    decoder.forward(golden.prompt.view(), refs, logits.view());
    std::vector<std::int64_t> ids;
    for (std::size_t n = 0; n < expected.size(); ++n) {
      ids.push_back(greatest(logits.data<float>(), golden.vocab()));
      decoder.forward({&ids.back(), {1, 1}}, refs, logits.view());
    }
    CHECK(ids == expected);
  }
}

TEST_CASE("The residual stream behind each layer is PyTorch's") {
  const Golden golden("llama_tiny");
  const Tensor hidden = golden.tensor("hidden");  // [layers, batch, seq, hidden]
  Decoder decoder = golden.decoder(DType::f32);
  std::vector<float> seen;
  const ForwardHooks hooks{.layer = [&](const TensorView& x) {
    const auto* const values = static_cast<const float*>(x.data);
    seen.insert(seen.end(), values, values + x.size());
  }};
  prompt_logits(decoder, golden, golden.seq(), {.hooks = &hooks});
  REQUIRE(std::ssize(seen) == hidden.size());
  double largest = 0;
  for (std::size_t n = 0; n < seen.size(); ++n)
    largest = std::max(largest, std::abs(double{seen[n]} - hidden.data<float>()[n]));
  CHECK(largest <= golden.tolerance(DType::f32));
}

TEST_CASE("Sequences of different length in one batch do not see each other, in pages or not") {
  const Golden golden("qwen3_tiny");
  Decoder decoder = golden.decoder(DType::f32);
  const std::int64_t layers = std::ssize(golden.model.settings().layers), vocab = golden.vocab();
  const AttentionSettings& attention = golden.model.settings().layers.front().attention;
  // Sequence n holds the first lengths[n] tokens of the prompt. The next two are appended to it one
  // by one.
  const std::vector<std::int64_t> lengths{5, 17, 1};
  const auto batch = std::ssize(lengths);
  std::vector<KvCache> caches = make_caches(decoder.settings(), batch, golden.seq());
  std::vector<PagedKvCache> pools;
  const std::vector<PagedKvCache::Sequence> sequences{0, 1, 2};
  std::vector<CacheRef> refs(caches.begin(), caches.end()), paged;
  for (std::int64_t n = 0; n < layers; ++n) {
    pools.emplace_back(PagedKvCache::Settings{.num_pages = 24,
                                              .page_size = 4,
                                              .num_kv_heads = attention.num_kv_heads,
                                              .head_dim = attention.head_dim});
    for (std::int64_t sequence = 0; sequence < batch; ++sequence) pools.back().create();
  }
  for (PagedKvCache& pool : pools) paged.emplace_back(pool, sequences);
  for (std::int64_t sequence = 0; sequence < batch; ++sequence) {
    const TensorView tokens =
        golden.prompt.view().sliced(1, 0, lengths[static_cast<std::size_t>(sequence)]);
    std::vector<CacheRef> one, one_paged;
    for (KvCache& cache : caches) one.emplace_back(cache, sequence);
    for (PagedKvCache& pool : pools)
      one_paged.emplace_back(pool,
                             std::span(sequences).subspan(static_cast<std::size_t>(sequence), 1));
    decoder.forward(tokens, one, {});
    decoder.forward(tokens, one_paged, {});
  }
  for (std::int64_t step = 0; step < 2; ++step) {
    std::vector<std::int64_t> ids;
    for (const std::int64_t length : lengths)
      ids.push_back(golden.prompt.data<std::int64_t>()[length + step]);
    for (const auto* cache : {&refs, &paged}) {
      Tensor logits(DType::f32, {batch, vocab});
      decoder.forward({ids.data(), {batch, 1}}, *cache, logits.view());
      for (std::size_t n = 0; n < lengths.size(); ++n) {
        const float* const expected = golden.logits.data<float>() + (lengths[n] + step) * vocab;
        const float* const got = logits.data<float>() + static_cast<std::int64_t>(n) * vocab;
        double largest = 0;
        for (std::int64_t id = 0; id < vocab; ++id)
          largest = std::max(largest, std::abs(double{got[id]} - expected[id]));
        CHECK(largest <= golden.tolerance(DType::f32));
      }
    }
  }
}

TEST_CASE("Frequencies of rope are PyTorch's") {
  const auto check = [](const Tensor& expected, const std::vector<double>& got) {
    REQUIRE(expected.size() == std::ssize(got));
    for (std::size_t n = 0; n < got.size(); ++n)
      CHECK(got[n] == doctest::Approx(expected.data<double>()[n]).epsilon(1e-13));
  };
  for (const char* name : {"llama_tiny", "qwen2_tiny", "qwen3_tiny"}) {
    const Golden golden(name);
    const AttentionSettings& attention = golden.model.settings().layers.front().attention;
    check(golden.tensor("inv_freq"), rope_frequencies(attention.rope.value(), attention.head_dim));
  }
  const std::string folder = std::string(ATTN_TEST_DATA_PATH) + "/rope/";
  check(read_tensor(folder + "llama3_inv_freq.npy"),
        rope_frequencies({.theta = 500000, .scaling = Llama3RopeScaling{}}, 128));
  check(read_tensor(folder + "linear_inv_freq.npy"),
        rope_frequencies({.scaling = LinearRopeScaling{.factor = 2}}, 128));
}
