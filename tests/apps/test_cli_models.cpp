// attn_demo layers, generate and heatmap --model: toys, and the small models whose values other
// software computed; refusals.
#include <attn/io.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "attn_demo/generate/text_stream.hpp"
#include "support/program.hpp"

using namespace attn;
using namespace attn::test;
namespace demo = attn::apps::demo;
using nlohmann::json;

namespace {

const std::vector<std::string> models = {"llama_tiny", "gpt2_tiny", "qwen2_tiny", "qwen3_tiny"};
const std::string toy = " --hidden 64 --layers 2 --heads 4 ";

std::string path_of(const std::string& model) {
  return std::string(ATTN_TEST_DATA_PATH) + '/' + model;
}

std::string joined(const Tensor& ids) {
  return fmt::format(
      "{}", fmt::join(ids.data<std::int64_t>(), ids.data<std::int64_t>() + ids.size(), ","));
}

std::string prompt_of(const std::string& model) {
  return joined(read_tensor(path_of(model) + "/prompt.npy"));
}

/// The ids of a prompt's greedy continuation, as `generate --print-ids` prints them.
std::string greedy_of(const std::string& model) {
  return joined(read_tensor(path_of(model) + "/greedy.npy")) + '\n';
}

std::string generate(const std::string& model, const std::string& options) {
  return fmt::format("generate --model '{}' --prompt-ids {} --dtype f32 --quiet {}", path_of(model),
                     prompt_of(model), options);
}

std::string text_of(const std::string& arguments) {
  CAPTURE(arguments);
  const Ran ran = attn_demo(arguments);
  CHECK(ran.err == "");
  REQUIRE(ran.code == 0);
  return ran.out;
}

/// A model's folder to spoil.
struct Spoilt {
  Folder folder;

  explicit Spoilt(const std::string& model) {
    for (const auto& entry : fs::directory_iterator(path_of(model)))
      fs::copy_file(entry.path(), folder / entry.path().filename().string());
  }
  const Spoilt& change(const std::string& file,
                       const std::function<std::string(std::string)>& f) const {
    folder.write(file, f(bytes_of(folder / file)));
    return *this;
  }
  const Spoilt& change_config(const std::function<void(json&)>& f) const {
    return change("config.json", [&](const std::string& text) {
      json config = json::parse(text);
      f(config);
      return config.dump();
    });
  }
};

std::uint64_t header_size(const std::string& file) {
  std::uint64_t size = 0;
  for (std::size_t n = 8; n-- > 0;) size = size << 8 | static_cast<unsigned char>(file[n]);
  return size;
}

/// Roundings that the two attentions may do differently, of values of x's order: in f32 those of a
/// score, a sum over head_dim, and of the sum over keys; in bf16 those of q, of the probabilities,
/// of O, and of what the next product reads. Norms keep what a layer gets at order 1, so layers
/// pass errors on at about their size and they add up.
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
            8 * bound(all, n));  // of some thousand values, of normal distribution
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
  // K and V of 12 tokens and 32 steps.
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
  // It has 64 positions, and 32 steps come behind the prompt.
  for (const char* each :
       {"2 layers, hidden 32, 4 heads of 8 on 4 KV heads, MLP 128, vocabulary 128, f32",
        "32 tokens of prompt", "tiled: max abs", "unfused: RMS", "whole forward", "100 %",
        "tokens/s"}) {
    CAPTURE(each);
    CHECK(text.find(each) != std::string::npos);
  }
}

TEST_CASE("generate: greedy ids and logits of each model") {
  const Folder folder;
  for (const std::string& model : models) {
    CAPTURE(model);
    const std::string file = folder / "logits.npy";
    CHECK(text_of(generate(
              model, fmt::format("--temperature 0 --print-ids --max-new 8 --ignore-eos --logits {}",
                                 file))) == greedy_of(model));
    const Tensor got = read_tensor(file), wanted = read_tensor(path_of(model) + "/logits.npy");
    REQUIRE(got.shape() == wanted.shape());
    // No more than twice the error of another program's f32, and its own rounding to f32.
    const json expected = json::parse(bytes_of(path_of(model) + "/expected.json"));
    const double tolerance = 2 * expected["torch_float32_error"].get<double>() +
                             std::ldexp(expected["largest_logit"].get<double>(), -23);
    double error = 0;
    for (std::int64_t n = 0; n < got.size(); ++n) {
      error = std::max(error, std::abs(static_cast<double>(got.data<float>()[n]) -
                                       static_cast<double>(wanted.data<float>()[n])));
    }
    CHECK(error <= tolerance);
    CHECK(folder.names() == Names{"logits.npy"});
  }
}

TEST_CASE("generate: text is the ids' bytes, and a prompt those of its text") {
  const std::string text = fmt::format(
      "generate --model '{}' --prompt 'Attention is all we need' --dtype f32 --quiet --max-new 8 "
      "--temperature 0 ",
      path_of("llama_tiny"));
  CHECK(text_of(text + "--print-ids") == greedy_of("llama_tiny"));
  // d7 12 c7 dc c6 ec T cb: beginnings of characters without their ends, and a control character.
  const std::string lost = "\xef\xbf\xbd";
  CHECK(text_of(text) == lost + "\\x12" + lost + lost + lost + lost + "T" + lost + "\n");
}

TEST_CASE("generate: draws") {
  const auto drawn = [](const std::string& options) {
    return text_of(generate("llama_tiny", "--print-ids --max-new 12 " + options));
  };
  CHECK(drawn("--seed 3") == drawn("--seed 3 --threads 1"));
  CHECK(drawn("--seed 3") != drawn("--seed 4"));
  // Hot enough for all ids to be equally likely: draws that took one random number would all be the
  // same.
  const std::string hot = drawn("--temperature 1000000");
  CHECK(hot.find(hot.substr(0, hot.find(',')), 3) == std::string::npos);
}

TEST_CASE("generate: filters that leave one token take the most probable") {
  for (const char* filter : {"--top-k 1", "--min-p 1", "--top-p 0.000001"}) {
    CAPTURE(filter);
    CHECK(text_of(generate("qwen2_tiny", fmt::format("--print-ids --max-new 8 --seed 9 {}",
                                                     filter))) == greedy_of("qwen2_tiny"));
  }
}

TEST_CASE("generate: where a text ends") {
  const Spoilt model("llama_tiny");
  model.folder.write("generation_config.json", R"({"eos_token_id": [7, 199]})");
  const std::string run = fmt::format(
      "generate --model {} --prompt-ids {} --dtype f32 --temperature 0 --print-ids --max-new 8 ",
      model.folder / "", prompt_of("llama_tiny"));
  CHECK(text_of(run + "--quiet") == "215,18\n");
  CHECK(text_of(run + "--quiet --ignore-eos") == greedy_of("llama_tiny"));
  CHECK(text_of(run).find("token 199 ended the text") != std::string::npos);
  CHECK(text_of(generate("llama_tiny", "--max-new 0")) == "\n");
}

TEST_CASE("generate: ids need no tokenizer, so one that is not supported does not stop them") {
  const Spoilt model("llama_tiny");
  model.folder.write(
      "tokenizer.json",
      R"({"model": {"type": "BPE", "byte_fallback": true, "vocab": {"a": 0}, "merges": []}})");
  const std::string run = fmt::format(
      "generate --model {} --dtype f32 --temperature 0 --quiet --max-new 8 ", model.folder / "");
  CHECK(text_of(run + "--prompt-ids " + prompt_of("llama_tiny")) == greedy_of("llama_tiny"));
  check_refused_with(attn_demo(run + "--prompt a"), "byte_fallback");
  model.folder.write("tokenizer.json", "{");
  check_refused_with(attn_demo(run + "--prompt-ids 1"), "no JSON");
}

TEST_CASE("generate: as many positions as the model has") {
  std::vector<int> ids(64, 5);
  const std::string run =
      fmt::format("generate --model '{}' --quiet --print-ids --prompt-ids ", path_of("gpt2_tiny"));
  const auto prompt = [&](std::size_t length) {
    return fmt::format(
        "{}", fmt::join(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(length), ","));
  };
  CHECK(text_of(run + prompt(64)) == "\n");
  CHECK(text_of(run + prompt(63)).find(',') == std::string::npos);
  check_refused_with(attn_demo(run + prompt(64) + " --max-new 1"),
                     "take 65 positions; the model has 64");
  check_refused_with(attn_demo(run + prompt(64) + ",5"), "take 65 positions; the model has 64");
}

TEST_CASE("generate: a toy of each family") {
  for (const char* family : {"llama", "gpt2"}) {
    const std::string run = fmt::format(
        "generate --arch {} {} --prompt hi --max-new 9 --quiet --print-ids", family, toy);
    CHECK(text_of(run) == text_of(run));
    CHECK(text_of(run) != text_of(run + " --seed 1"));
  }
}

TEST_CASE("streamed text holds whole characters, and nothing that a terminal obeys") {
  const std::string lost = "\xef\xbf\xbd";
  const auto check = [](std::string bytes, const std::string& shown, const std::string& kept = "") {
    CAPTURE(shown);
    CHECK(demo::take_printable(bytes, false) == shown);
    CHECK(bytes == kept);
  };
  check("plain\n\ttext", "plain\n\ttext");
  check("\xc3\xa4\xe2\x82\xac\xf0\x9f\x99\x82", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x99\x82");
  check("a\xf0\x9f\x99", "a", "\xf0\x9f\x99");
  check("a\xe2", "a", "\xe2");
  check("\x1b[2J\r\x7f", "\\x1b[2J\\x0d\\x7f");
  check(
      "\xc2\x9b"
      "2J\xc2\x85\xc2\xa0",
      "\\x9b2J\\x85\xc2\xa0");
  check("\x80z", lost + "z");
  check("\xc3z", lost + "z");
  check("\xe2\x82z", lost + "z");         // one for the part of a character that there is
  check("\xc0\xafz", lost + lost + "z");  // "/" in two bytes
  check("\xe0\x80\xafz", lost + lost + lost + "z");  // and in three
  check("\xed\xa0\x80z", lost + lost + lost + "z");  // a surrogate
  check("\xf4\x90\x80\x80z", lost + lost + lost + lost + "z");
  check("\xf5z", lost + "z");
  std::string pending = "\xe2\x82";
  CHECK(demo::take_printable(pending, false) == "");
  pending += "\xac!";
  CHECK(demo::take_printable(pending, false) == "\xe2\x82\xac!");
  pending = "\xe2\x82";
  CHECK(demo::take_printable(pending, true) == lost);
  CHECK(pending == "");
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

TEST_CASE("wrong usage is refused in one line, and nothing is written") {
  const Folder folder;
  const std::string model = fmt::format(" --model '{}' ", path_of("llama_tiny"));
  const std::string logits = fmt::format(" --logits {} ", folder / "logits.npy");
  const auto check = [&](const std::string& arguments, const std::string& fault) {
    CAPTURE(arguments);
    check_refused_with(attn_demo(arguments), fault);
    CHECK(folder.names() == Names{});
  };
  check("layers --hidden 3", "hidden 3 does not make 8 heads of an even dim");
  check("layers --arch gpt2 --hidden 10 --heads 4", "a whole dim");
  check("layers --heads 0", "--heads is \"0\"");
  check("layers --heads 4 --kv-heads 3 --hidden 64 --layers 1", "num_kv_heads = 3");
  for (const char* option : {"--seq", "--batch", "--layers", "--hidden", "--kv-heads"}) {
    for (const char* value : {"0", "2000000"})
      check(fmt::format("layers {} {}", option, value), option);
  }
  check("layers --dtype f16", "one of f32, bf16");
  check("layers --arch bert", "one of llama, gpt2");
  check("layers --min-time -1", "a number of at least 0");
  check("layers --min-time nan", "a finite number");
  for (const char* option :
       {"--arch llama", "--layers 1", "--hidden 64", "--heads 4", "--kv-heads 1", "--seed 1"})
    check("layers" + model + option, "exclude");
  check("layers" + model + "--seq 1000", "take 1032 positions; the model has 1024");
  check("layers --hidden 1048576 --layers 1048576", "of memory; ");
  check("layers --hidden 64 --layers 1 --seq 1000000 --batch 1048576", "of memory; ");
  check("layers --hidden 64 --layers 1 --seq 1000000 --heads 16", "of memory; ");
  check("generate --hidden 1048576 --layers 1048576 --prompt a" + logits, "of memory; ");
  check("generate" + model + logits, "--prompt TEXT or --prompt-ids");
  check("generate" + model + logits + "--prompt ''", "--prompt is empty");
  check("generate" + model + logits + "--prompt a --prompt-ids 1", "excludes");
  check("generate" + model + logits + "--prompt a --hidden 64", "excludes");
  for (const char* ids : {"''", "1,", ",1", "1,,2", "1,x", "-1", "1.5"})
    check("generate" + model + logits + "--prompt-ids " + ids, "--prompt-ids");
  check("generate" + model + logits + "--prompt-ids 1,256", "ids[0, 1] is 256");
  check("generate" + model + logits + "--prompt-ids 9223372036854775807", "less than 256");
  for (const char* value : {"-1", "nan", "inf", "x"})
    check("generate --prompt a --temperature " + std::string(value), "--temperature");
  for (const char* value : {"0", "-1", "1.1"})
    check("generate --prompt a --top-p " + std::string(value), "--top-p");
  for (const char* value : {"-0.1", "1.1"})
    check("generate --prompt a --min-p " + std::string(value), "--min-p");
  check("generate --prompt a --top-k 0", "--top-k");
  check("generate --prompt a --max-new -1", "--max-new");
  check(fmt::format("generate {} --prompt a --logits {}", model, folder / "none/logits.npy"),
        "cannot be written");
  check(fmt::format("generate {} --prompt a --logits {}", model, folder / "logits.txt"),
        ".npy or .safetensors");
  const std::string out = fmt::format(" --out {} ", folder / "map.png");
  check("heatmap --prompt a" + out, "--prompt requires --model");
  check("heatmap --layer 1" + out, "--layer requires --model");
  check("heatmap" + model + out, "--prompt TEXT or --prompt-ids");
  check("heatmap" + model + out + "--prompt a --layer 2", "the model has 2 layers");
  check("heatmap" + model + out + "--prompt a --head 4", "the model has 4 query heads");
  for (const char* option : {"--causal", "--scale 2", "--labels a", "--batch 1", "--q x.npy",
                             "--normalizer sparsemax", "--kv-heads 1 --heads 2"})
    check("heatmap" + model + out + "--prompt a " + option, "excludes");
}

TEST_CASE("broken folders are refused in one line, and nothing is written") {
  const Folder folder;
  const auto check = [&](const std::string& model, const std::string& fault) {
    const std::string given = fmt::format("--model '{}' --prompt-ids 1", model);
    check_refused_with(
        attn_demo(fmt::format("generate {} --max-new 1 --logits {}", given, folder / "logits.npy")),
        fault);
    check_refused_with(attn_demo(fmt::format("layers --model '{}'", model)), fault);
    check_refused_with(attn_demo(fmt::format("heatmap {} --out {}", given, folder / "map.png")),
                       fault);
    CHECK(folder.names() == Names{});
  };
  check("/nowhere", "config.json: no such file");
  check(path_of("rope"), "config.json: no such file");
  const auto config = [&](const std::string& text, const std::string& fault) {
    const Spoilt model("llama_tiny");
    model.folder.write("config.json", text);
    check(model.folder / "", fault);
  };
  config("", "config.json");
  config("{\"model_type\": \"llama\"", "config.json");
  config(std::string(200'000, '['), "config.json");
  config("[]", "config.json");
  check(
      Spoilt("llama_tiny").change_config([](json& all) { all["num_attention_heads"] = 0; }).folder /
          "",
      "num_attention_heads");
  check(
      Spoilt("llama_tiny").change_config([](json& all) { all["hidden_size"] = 1u << 20; }).folder /
          "",
      "model.safetensors");
  check(
      Spoilt("llama_tiny").change_config([](json& all) { all["model_type"] = "t\n5"; }).folder / "",
      "model_type");
  const auto cut = [](std::string file) { return file.substr(0, file.size() - 1); };
  check(Spoilt("qwen3_tiny").change("model-00002-of-00002.safetensors", cut).folder / "",
        "model-00002-of-00002.safetensors");
  const auto endless = [](const std::string& file) {
    return little_endian(1ull << 60, 8) + file.substr(8);
  };
  check(Spoilt("gpt2_tiny").change("model.safetensors", endless).folder / "", "model.safetensors");
  const auto overlapping = [](const std::string& file) {
    const std::uint64_t size = header_size(file);
    json header = json::parse(file.substr(8, size));
    header["model.layers.0.self_attn.k_proj.weight"] =
        header["model.layers.0.self_attn.v_proj.weight"];
    return safetensors(header.dump(), file.substr(8 + size));
  };
  check(Spoilt("llama_tiny").change("model.safetensors", overlapping).folder / "",
        "model.safetensors");
}

TEST_CASE("a run that fails late leaves no file") {
  const Spoilt model("llama_tiny");
  const Folder folder;
  const std::string given =
      fmt::format("--prompt-ids 1,2 --max-new 2 --quiet --logits {} ", folder / "logits.npy");
  // What is written to standard output is known to be lost only at the end.
  check_refused_with(
      attn_demo(fmt::format("generate --model '{}' {} >/dev/full", path_of("llama_tiny"), given)),
      "standard output");
  CHECK(folder.names() == Names{});
  // Weights that are NaN: there is nothing to draw from.
  model.change("model.safetensors", [](std::string file) {
    const std::size_t header = 8 + header_size(file);
    return file.replace(header, file.size() - header, file.size() - header, '\xff');
  });
  check_refused_with(attn_demo(fmt::format("generate --model {} {}", model.folder / "", given)),
                     "logits");
  CHECK(folder.names() == Names{});
  model.folder.write("tokenizer.json", "{}");
  check_refused_with(attn_demo(fmt::format("generate --model {} {}", model.folder / "", given)),
                     "tokenizer.json");
  CHECK(folder.names() == Names{});
}
