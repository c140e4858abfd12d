// attn_demo generate: ids and logits of the small models, against values that other software
// computed; random draws, the end of a text, and how text is streamed.
#include <attn/attn.hpp>
#include <attn/io.hpp>
#include <attn/model.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "attn_demo/generate/text_stream.hpp"
#include "support/demo_models.hpp"
#include "support/tokenizer_json.hpp"

using namespace attn;
using namespace attn::test;
namespace demo = attn::apps::demo;
using nlohmann::json;

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
    // The tolerance is twice the error of PyTorch in f32, plus the rounding to f32.
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
  // The bytes d7 12 c7 dc c6 ec T cb are incomplete characters and a control character.
  const std::string lost = "\xef\xbf\xbd";
  CHECK(text_of(text) == lost + "\\x12" + lost + lost + lost + lost + "T" + lost + "\n");
}

TEST_CASE("generate: draws") {
  const auto drawn = [](const std::string& options) {
    return text_of(generate("llama_tiny", "--print-ids --max-new 12 " + options));
  };
  CHECK(drawn("--seed 3") == drawn("--seed 3 --threads 1"));
  CHECK(drawn("--seed 3") != drawn("--seed 4"));
  // At this temperature all ids are equally likely. If all draws took the same random number, they
  // would all be the same id.
  const std::string hot = drawn("--temperature 1000000");
  CHECK(hot.find(hot.substr(0, hot.find(',')), 3) == std::string::npos);
  CHECK(drawn("--seed 3 --top-k 0") == drawn("--seed 3"));
}

TEST_CASE("generate: filters that leave one token take the most probable") {
  for (const char* filter : {"--top-k 1", "--min-p 1", "--top-p 0.000001", "--top-p 0"}) {
    CAPTURE(filter);
    CHECK(text_of(generate("qwen2_tiny", fmt::format("--print-ids --max-new 8 --seed 9 {}",
                                                     filter))) == greedy_of("qwen2_tiny"));
  }
}

TEST_CASE("generate: where a text ends") {
  const ModelCopy model("llama_tiny");
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
  const ModelCopy model("llama_tiny");
  model.folder.write("tokenizer.json", R"({"model": {"type": "Unigram", "vocab": [["a", 0]]}})");
  const std::string run = fmt::format(
      "generate --model {} --dtype f32 --temperature 0 --quiet --max-new 8 ", model.folder / "");
  CHECK(text_of(run + "--prompt-ids " + prompt_of("llama_tiny")) == greedy_of("llama_tiny"));
  check_refused_with(attn_demo(run + "--prompt a"), "Unigram");
  model.folder.write("tokenizer.json", "{");
  check_refused_with(attn_demo(run + "--prompt-ids 1"), "no JSON");
}

TEST_CASE("generate: as many positions as the model has, and one token more") {
  const Folder folder;
  std::vector<int> ids(65, 5);
  const std::string run = fmt::format(
      "generate --model '{}' --quiet --print-ids --temperature 0 --ignore-eos --prompt-ids ",
      path_of("gpt2_tiny"));
  const auto prompt = [&](std::size_t length) {
    return fmt::format(
        "{}", fmt::join(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(length), ","));
  };
  // The last token takes no position: after a full prompt there is one, by default too.
  const std::string one =
      text_of(fmt::format("{}{} --logits {}", run, prompt(64), folder / "logits.npy"));
  const Tensor logits = read_tensor(folder / "logits.npy");
  const float* const last = logits.data<float>() + 63 * logits.shape()[2];
  CHECK(one == fmt::format("{}\n", std::max_element(last, last + logits.shape()[2]) - last));
  CHECK(text_of(run + prompt(64) + " --max-new 1") == one);
  CHECK(text_of(run + prompt(64) + " --max-new 0") == "\n");
  const std::string two = text_of(run + prompt(63));
  CHECK(std::count(two.begin(), two.end(), ',') == 1);
  CHECK(text_of(run + prompt(63) + " --max-new 2") == two);
  check_refused_with(attn_demo(run + prompt(64) + " --max-new 2"),
                     "take 65 positions; the model has 64");
  for (const char* more : {"", " --max-new 0", " --max-new 1"})
    check_refused_with(attn_demo(run + prompt(65) + more), "take 65 positions; the model has 64");
}

TEST_CASE("generate: linear scaling lengthens the context, dynamic scaling has no end") {
  const auto scaled = [](const std::string& type, double factor, int positions) {
    return [=](json& config) {
      config["max_position_embeddings"] = positions;
      config["rope_scaling"] = {{"type", type}, {"factor", factor}};
    };
  };
  const auto run = [](const ModelCopy& model, int max_new) {
    return fmt::format(
        "generate --model {} --prompt-ids {} --temperature 0 --print-ids --quiet --max-new {}",
        model.folder / "", prompt_of("llama_tiny"), max_new);
  };
  // 31 positions: 24 of the prompt and 7 of the tokens after it. The ids are those of a forward in
  // double that is not this program's; the nearest two logits differ by 0.1.
  const ModelCopy linear("llama_tiny");
  linear.change_config(scaled("linear", 7.75, 4));
  CHECK(text_of(run(linear, 8)) == "42,109,227,176,247,163,65,227\n");
  check_refused_with(attn_demo(run(linear, 9)), "take 32 positions; the model has 31");
  const ModelCopy dynamic("llama_tiny");
  dynamic.change_config(scaled("dynamic", 4, 24));
  const std::string first = text_of(run(dynamic, 1));
  dynamic.change_config(scaled("default", 1, 24));
  CHECK(text_of(run(dynamic, 1)) == first);
  dynamic.change_config(scaled("dynamic", 4, 24));
  CHECK(text_of(run(dynamic, 40)).starts_with(first.substr(0, first.size() - 1) + ","));
}

TEST_CASE("generate: a text that outgrows LongRoPE's original positions is read anew") {
  const std::string folder = path_of("families/phi3");
  const json expected = json::parse(bytes_of(folder + "/expected.json"));
  const auto ids = [&](const char* key) {
    return fmt::format("{}", fmt::join(expected[key].get<std::vector<int>>(), ","));
  };
  CHECK(text_of(fmt::format("generate --model '{}' --prompt-ids {} --temperature 0 --print-ids "
                            "--quiet --max-new 10 --ignore-eos --dtype f32",
                            folder, ids("short_prompt"))) == ids("short_greedy") + "\n");
}

TEST_CASE("generate: in families other than Phi-3, LongRoPE leaves keys as they were rotated") {
  const ModelCopy copy("llama_tiny");
  copy.change_config([](json& config) {
    config["rope_scaling"] = {{"rope_type", "longrope"},
                              {"original_max_position_embeddings", 26},
                              {"short_factor", {1, 1, 1, 1}},
                              {"long_factor", {1, 2, 3, 5}}};
  });
  const ModelFolder model(copy.folder / "");
  Decoder decoder(model.settings(), model.weights());
  std::vector<KvCache> caches = make_caches(decoder.settings(), 1, 40);
  const std::vector<CacheRef> refs(caches.begin(), caches.end());
  std::vector<std::int64_t> next(24), ids;
  std::copy_n(read_tensor(path_of("llama_tiny") + "/prompt.npy").data<std::int64_t>(), 24,
              next.begin());
  Tensor logits(DType::f32, {1, decoder.settings().vocab_size});
  for (int step = 0; step < 8; ++step) {
    decoder.forward({next.data(), {1, std::ssize(next)}}, refs, logits.view());
    const float* const first = logits.data<float>();
    next = {std::max_element(first, first + logits.size()) - first};
    ids.push_back(next[0]);
  }
  CHECK(text_of(fmt::format("generate --model {} --prompt-ids {} --max-new 8 --temperature 0 "
                            "--print-ids --quiet --ignore-eos",
                            copy.folder / "", prompt_of("llama_tiny"))) ==
        fmt::format("{}\n", fmt::join(ids, ",")));
}

TEST_CASE("generate: a notice about models that see both ways") {
  const std::string run =
      "generate --prompt-ids 1,2,3 --temperature 0 --print-ids --quiet --model " +
      path_of("families/mistral_both_ways");
  CHECK(attn_demo(run + " --max-new 2").err ==
        "attn_demo: notice: the model sees both ways (is_causal is false); here no token sees "
        "those that are generated after it\n");
  CHECK(attn_demo(run + " --max-new 1").err == "");
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
  check("\xe2\x82z", lost + "z");                    // one replacement for an incomplete character
  check("\xc0\xafz", lost + lost + "z");             // "/" in two bytes
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

TEST_CASE("generate: notices about the token that begins a text") {
  const ModelCopy model("llama_tiny");
  json file = small_file();
  file["added_tokens"].push_back({{"id", 41}, {"content", "<s>"}, {"special", true}});
  model.folder.write("tokenizer.json", file.dump());
  const auto check = [&](const std::string& config, const std::string& prompt, std::int64_t tokens,
                         const std::string& notice) {
    model.folder.write("tokenizer_config.json", config);
    const std::string logits = model.folder / "logits.npy";
    const Ran ran =
        attn_demo(fmt::format("generate --model '{}' --prompt '{}' --max-new 0 --quiet --logits {}",
                              model.folder / "", prompt, logits));
    CAPTURE(config);
    CHECK(ran.code == 0);
    CHECK(read_tensor(logits).shape() == Dims{1, tokens, 256});
    CHECK(ran.err.find(notice) != std::string::npos);
    CHECK(std::count(ran.err.begin(), ran.err.end(), '\n') == (notice.empty() ? 0 : 1));
    CHECK(ran.out == "\n");
  };
  check(R"({"tokenizer_class": "LlamaTokenizerFast"})", "abc", 2, "");
  check(R"({"tokenizer_class": "LlamaTokenizerFast"})", "<s>abc", 3,
        "attn_demo: notice: the prompt begins with <s>, which the tokenizer puts before each text");
  check(R"({"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": false})", "abc", 1, "");
  check(R"({"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": true})", "abc", 1,
        "attn_demo: notice: ");
}
