// attn_demo layers and heatmap --model: random toys, and the small models of tests/data.
#include <attn/io.hpp>

#include <cmath>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "support/demo_models.hpp"

using namespace attn;
using namespace attn::test;
using nlohmann::json;

namespace {

/// How far two kernels of attention may be apart behind a layer. They may round differently: in f32
/// the sum over head_dim of a score and the sum over keys; in bf16 q, the probabilities, O and the
/// input of the next product. Each rounding is relative to the magnitude of x. Norms keep the input
/// of a layer at order 1, so that layers pass errors on at about their size, and errors add up.
double bound(const json& all, std::size_t layer) {
  const bool bf16 = all["dtype"] == "bf16";
  const double roundings = bf16 ? 4 : all["head_dim"].get<double>() + all["seq"].get<double>();
  return static_cast<double>(layer + 1) * roundings * std::ldexp(1.0, bf16 ? -8 : -24) *
         all["layers"][layer]["rms_of_x"].get<double>();
}

void check_positive(const json& object, const std::vector<std::string>& keys) {
  for (const std::string& key : keys) {
    CAPTURE(key);
    REQUIRE(object.contains(key));
    CHECK(object[key].get<double>() > 0);
  }
}

void check_parts(const json& phase) {
  double sum = 0;
  for (const char* part :
       {"projections", "attention", "cache", "mlp", "norms", "embedding", "logits", "rest"}) {
    CAPTURE(part);
    REQUIRE(phase["parts_ms"].contains(part));
    CHECK(phase["parts_ms"][part].get<double>() >= 0);
    sum += phase["parts_ms"][part].get<double>();
  }
  CHECK(phase["parts_ms"].size() == 8);
  CHECK(sum == doctest::Approx(phase["ms"].get<double>()));
}

json check_layers(const std::string& options) {
  const json all = json::parse(text_of("layers --min-time 0 --json " + options));
  CAPTURE(all.dump());
  check_positive(all, {"num_layers", "hidden", "num_q_heads", "num_kv_heads", "head_dim",
                       "mlp_width", "vocab_size", "batch", "seq", "threads"});
  CHECK(all["model"].is_string());
  CHECK(all["isa"].is_string());
  REQUIRE(all["layers"].size() == all["num_layers"].get<std::size_t>());
  for (std::size_t n = 0; n < all["layers"].size(); ++n) {
    for (const char* kernel : {"tiled", "unfused"}) {
      const json& errors = all["layers"][n][kernel];
      CHECK(errors["rms"].get<double>() <= bound(all, n));
      CHECK(errors["max_abs"].get<double>() >= errors["rms"].get<double>());
      CHECK(errors["max_abs"].get<double>() <=
            8 * bound(all, n));  // the largest of some thousand normally distributed values
    }
  }
  check_positive(all["prefill"], {"ms", "tokens_per_second", "gflops", "peak_gflops",
                                  "fraction_of_peak", "unfused_ms", "naive_ms"});
  check_positive(all["decode"],
                 {"ms", "tokens_per_second", "bytes", "gbps", "read_gbps", "fraction_of_read"});
  check_positive(all["memory"],
                 {"packed_bytes", "in_place_bytes", "cache_bytes", "activation_bytes"});
  for (const char* phase : {"prefill", "decode"}) check_parts(all[phase]);
  return all;
}

}  // namespace

TEST_CASE("layers: toys") {
  const json llama = check_layers(toy + "--seq 12");
  CHECK(llama["num_kv_heads"] == 1);
  CHECK(llama["mlp_width"] == 256);
  CHECK(llama["seq"] == 12);
  CHECK(llama["dtype"] == "f32");
  // The caches hold K and V of 12 tokens and of 32 steps.
  CHECK(llama["memory"]["cache_bytes"].get<double>() >= 2 * 2 * 44 * 16 * 4);
  const json gpt2 =
      check_layers(toy + "--seq 5 --batch 3 --arch gpt2 --dtype bf16 --kv-heads 2 --threads 1");
  CHECK(gpt2["num_kv_heads"] == 2);
  CHECK(gpt2["threads"] == 1);
  CHECK(gpt2["batch"] == 3);
}

TEST_CASE("layers: a model in a folder") {
  CHECK(check_layers(fmt::format("--model '{}' --seq 24 --isa baseline --threads 1",
                                 path_of("llama_tiny")))["seq"] == 24);
}

TEST_CASE("layers: the tables, of as many tokens as a model has room for") {
  const std::string text =
      text_of(fmt::format("layers --min-time 0 --threads 1 --model '{}'", path_of("gpt2_tiny")));
  CAPTURE(text);
  // The model has 64 positions, 32 of which are for the steps after the prompt.
  for (const char* each :
       {"2 layers, hidden 32, 4 heads of 8 on 4 KV heads, MLP 128, vocabulary 128, f32",
        "32 tokens of prompt", "tiled: max abs", "unfused: RMS", "whole forward", "100 %",
        "tokens/s"}) {
    CAPTURE(each);
    CHECK(text.find(each) != std::string::npos);
  }
}

TEST_CASE("heatmap of a model's layer") {
  const Folder folder;
  const std::string run = fmt::format("heatmap --model '{}' --prompt abc ", path_of("llama_tiny"));
  const std::string first = text_of(run);
  CHECK(first.find("a |@@....|") != std::string::npos);
  CHECK(first ==
        text_of(fmt::format("heatmap --model '{}' --prompt-ids 97,98,99 --layer 0 --head 0",
                            path_of("llama_tiny"))));
  CHECK(first.find("layer 0, head 0") != std::string::npos);
  CHECK(text_of(run + "--layer 1 --head 3").find("layer 1, head 3") != std::string::npos);
  const std::string all = text_of(run + "--head all");
  for (int head = 0; head < 4; ++head)
    CHECK(all.find(fmt::format("head {}", head)) != std::string::npos);
  const auto png = [&](const std::string& options) {
    CHECK(text_of(fmt::format("{} --out {} {}", run, folder / "map.png", options)) == "");
    return bytes_of(folder / "map.png");
  };
  CHECK(png("--layer 0").starts_with("\x89PNG"));
  CHECK(png("--layer 0") != png("--layer 1"));
  CHECK(png("--head all") != png("--head 1"));
}
