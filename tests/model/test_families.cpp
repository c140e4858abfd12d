// Small models of every family, against what Hugging Face's transformers computes (data/README.md).
#include <attn/attn.hpp>
#include <attn/io.hpp>
#include <attn/model.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

using namespace attn;

namespace {

using Ids = std::vector<std::int64_t>;

const std::string families[] = {"gemma2",        "gemma3_text",       "phi3",        "olmo2",
                                "smollm3",       "mistral_mixed",     "qwen2_mixed", "qwen3_yarn",
                                "llama_dynamic", "mistral_both_ways", "llama_llama3"};

struct Expected {
  explicit Expected(const std::string& name)
      : folder(std::string(ATTN_TEST_DATA_PATH) + "/families/" + name),
        model(folder),
        logits(read_tensor(folder + "/logits.npy")) {
    std::ifstream file(folder + "/expected.json");
    values = nlohmann::json::parse(file);
    prompt = values["prompt"].get<Ids>();
  }
  std::int64_t vocab() const { return model.settings().vocab_size; }
  Decoder decoder() const { return Decoder(model.settings(), model.weights()); }
  /// Logits agree within 1e-5 of the largest.
  double tolerance() const {
    double largest = 0;
    for (std::int64_t n = 0; n < logits.size(); ++n)
      largest = std::max(largest, std::abs(double{logits.data<float>()[n]}));
    return 1e-5 * largest;
  }

  std::string folder;
  ModelFolder model;
  Tensor logits;  // of the last tokens of the prompt
  nlohmann::json values;
  Ids prompt;
};

/// A decoder and its caches.
struct Run {
  Run(const Expected& expected, std::int64_t capacity)
      : decoder(expected.decoder()),
        vocab(expected.vocab()),
        caches(make_caches(decoder.settings(), 1, capacity)),
        refs(caches.begin(), caches.end()) {}

  /// Logits of each token.
  std::vector<float> forward(const Ids& ids) {
    const std::int64_t count = std::ssize(ids);
    std::vector<float> logits(static_cast<std::size_t>(count * vocab));
    decoder.forward({ids.data(), {1, count}}, refs, {logits.data(), {1, count, vocab}});
    return logits;
  }
  Ids greedy(const Ids& prompt, std::size_t count) {
    Ids ids = prompt, made;
    while (made.size() < count) {
      const std::vector<float> logits = forward(ids);
      const auto last = logits.end() - vocab;
      made.push_back(std::max_element(last, logits.end()) - last);
      ids = {made.back()};
    }
    return made;
  }

  Decoder decoder;
  std::int64_t vocab;
  std::vector<KvCache> caches;
  std::vector<CacheRef> refs;
};

double difference(const std::vector<float>& got, const Tensor& wanted) {
  const std::size_t skipped = got.size() - static_cast<std::size_t>(wanted.size());
  double largest = 0;
  for (std::size_t n = skipped; n < got.size(); ++n)
    largest = std::max(largest, std::abs(double{got[n]} - wanted.data<float>()[n - skipped]));
  return largest;
}

}  // namespace

TEST_CASE("Logits of a prompt are those of transformers") {
  for (const std::string& name : families) {
    CAPTURE(name);
    const Expected expected(name);
    Run run(expected, std::ssize(expected.prompt));
    CHECK(difference(run.forward(expected.prompt), expected.logits) <= expected.tolerance());
  }
}

TEST_CASE("Greedy generation continues as transformers does") {
  for (const std::string& name : families) {
    CAPTURE(name);
    const Expected expected(name);
    if (!expected.values.contains("greedy")) continue;
    const Ids wanted = expected.values["greedy"].get<Ids>();
    Run run(expected, std::ssize(expected.prompt) + std::ssize(wanted));
    CHECK(run.greedy(expected.prompt, wanted.size()) == wanted);
  }
}

TEST_CASE("Frequencies of scaled positions are those of float64") {
  const auto check = [](const std::string& name, const RopeSettings& settings,
                        std::int64_t length) {
    CAPTURE(name);
    const Tensor expected =
        read_tensor(std::string(ATTN_TEST_DATA_PATH) + "/rope/" + name + "_inv_freq.npy");
    const std::vector<double> got = rope_frequencies(settings, 128, length);
    REQUIRE(expected.size() == std::ssize(got));
    for (std::size_t n = 0; n < got.size(); ++n)
      CHECK(got[n] == doctest::Approx(expected.data<double>()[n]).epsilon(1e-12));
  };
  const RopeSettings yarn{.theta = 1e6,
                          .scaling = YarnRopeScaling{.factor = 4, .original_max_positions = 32768}};
  check("yarn", yarn, 0);
  CHECK(rope_attention_factor(yarn) == doctest::Approx(1.1386294361119891).epsilon(1e-14));
  const RopeSettings dynamic{.scaling =
                                 DynamicRopeScaling{.factor = 2, .original_max_positions = 4096}};
  check("dynamic", dynamic, 10000);
  CHECK(rope_frequencies(dynamic, 128, 4096) == rope_frequencies({}, 128));
  LongRopeScaling scaling{.original_max_positions = 100, .attention_factor = 1.5};
  for (int n = 0; n < 64; ++n) {
    scaling.short_factors.push_back(1);
    scaling.long_factors.push_back(1 + n / 16.);
  }
  check("longrope", {.scaling = scaling}, 101);
  CHECK(rope_frequencies({.scaling = scaling}, 128, 100) == rope_frequencies({}, 128));
  // The tables of so many positions, multiplied by the factor.
  const RopeTables tables({.scaling = scaling}, 128, 101);
  const std::vector<double> frequencies = rope_frequencies({.scaling = scaling}, 128, 101);
  const auto* const cos = static_cast<const float*>(tables.rope().cos.data);
  CHECK(cos[100 * 64 + 3] == static_cast<float>(1.5 * std::cos(100 * frequencies[3])));
}
