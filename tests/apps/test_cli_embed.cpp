// attn_demo tokenize and embed.
#include <attn/io.hpp>

#include <cmath>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "support/demo_models.hpp"

using namespace attn;
using namespace attn::test;
using nlohmann::json;

namespace {

/// A WordPiece of single letters: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, a to z 4 to 29, ##a to ##z.
json letters() {
  json vocab{{"[PAD]", 0}, {"[UNK]", 1}, {"[CLS]", 2}, {"[SEP]", 3}};
  for (int n = 0; n < 26; ++n) {
    const std::string letter(1, static_cast<char>('a' + n));
    vocab[letter] = 4 + n;
    vocab["##" + letter] = 30 + n;
  }
  const json model{{"type", "WordPiece"},
                   {"unk_token", "[UNK]"},
                   {"continuing_subword_prefix", "##"},
                   {"max_input_chars_per_word", 100},
                   {"vocab", vocab}};
  return {{"model", model},
          {"normalizer", {{"type", "BertNormalizer"}, {"lowercase", true}}},
          {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
          {"post_processor",
           {{"type", "BertProcessing"}, {"sep", {"[SEP]", 3}}, {"cls", {"[CLS]", 2}}}}};
}

/// The small BERT with such a tokenizer.
struct Bert {
  Bert() {
    for (const auto& entry : fs::directory_iterator(path_of("families/bert")))
      fs::copy(entry.path(), folder / entry.path().filename().string(),
               fs::copy_options::recursive);
    folder.write("tokenizer.json", letters().dump());
  }
  std::string command(const std::string& options) const {
    return fmt::format("embed --model {} --out {} {}", folder / "", file(), options);
  }
  std::string file() const { return out / "v.npy"; }
  Tensor embed(const std::string& options, const std::string& notice = "") const {
    const Ran ran = attn_demo(command(options));
    CAPTURE(options);
    CHECK(ran.out == "");
    CHECK(ran.err == notice);
    REQUIRE(ran.code == 0);
    return read_tensor(file());
  }
  void refused(const std::string& options, const std::string& fault) const {
    fs::remove(file());
    check_refused_with(attn_demo(command(options)), fault);
    CHECK(out.names().empty());
  }
  Folder folder, out, inputs;
};

template <class T>
void write_integers(const std::string& file, const Dims& shape, const std::vector<T>& values) {
  write_tensor(file, {values.data(), shape});
}

bool same(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), a.size_in_bytes()) == 0;
}

}  // namespace

TEST_CASE("tokenize: a line of ids for each text, with the tokens that stand around it") {
  const Bert bert;
  const std::string tokenize = "tokenize --model " + (bert.folder / "");
  CHECK(text_of(tokenize + " --text 'Ab, c' --text '' --text=--x") ==
        "2,4,31,1,6,3\n2,3\n2,1,1,27,3\n");
  CHECK(text_of(tokenize + " --text a b 'c d'") == "2,4,3\n2,5,3\n2,6,7,3\n");
  json file = letters();
  file.erase("post_processor");
  file["truncation"] = {{"max_length", 1}};
  file["padding"] = {{"strategy", {{"Fixed", 9}}}};
  bert.folder.write("tokenizer.json", file.dump());
  CHECK(text_of(tokenize + " --text abc --text ''") == "4,31,32\n\n");
  check_refused_with(attn_demo(tokenize), "--text");
  for (const std::string bytes :
       {"\xff", "\xed\xa0\x80", "\xc0\x80", "\xf4\x90\x80\x80", "\xe2\x82"})
    check_refused_with(attn_demo(tokenize + " --text a \xc3\xa9" + bytes),
                       "--text 1 has bytes that are not UTF-8, from byte 2 on; it needs UTF-8");
  fs::remove(bert.folder / "tokenizer.json");
  check_refused_with(attn_demo(tokenize + " --text a"), "tokenizer.json");
}

TEST_CASE("embed: texts, their ids and padded ids give the same vectors") {
  const Bert bert;
  const Tensor texts = bert.embed("--text 'ab c' --text z");
  REQUIRE(texts.shape() == Dims{2, 64});
  double squares = 0;
  for (std::int64_t n = 0; n < 64; ++n) squares += std::pow(double{texts.data<float>()[n]}, 2);
  CHECK(squares == doctest::Approx(1).epsilon(1e-6));
  write_integers<std::int64_t>(bert.inputs / "ids.npy", {2, 6},
                               {2, 4, 31, 6, 3, -7, 2, 29, 3, 999, 0, 0});
  write_integers<std::int32_t>(bert.inputs / "lengths.npy", {2}, {5, 3});
  const std::string files =
      fmt::format("--ids {} --lengths {}", bert.inputs / "ids.npy", bert.inputs / "lengths.npy");
  CHECK(same(bert.embed(files), texts));
  CHECK(same(bert.embed(files + " --threads 1"), texts));
}

TEST_CASE("embed: long texts are cut with a notice, and keep the tokens around them") {
  const Bert bert;
  bert.folder.write("sentence_bert_config.json", R"({"max_seq_length": 5})");
  const Tensor cut = bert.embed("--text 'a b c d e' --text a",
                                "attn_demo: notice: 1 of 2 texts is longer than 5 tokens "
                                "(max_seq_length), and cut there\n");
  CHECK(same(cut, bert.embed("--text 'a b c' --text a")));
  fs::remove(bert.folder / "sentence_bert_config.json");
  const std::string letters(60, 'a');
  bert.embed(
      "--text " + letters,
      "attn_demo: notice: 1 of 1 texts is longer than 48 tokens (the model's positions), and "
      "cut there\n");
  write_integers<std::int64_t>(bert.inputs / "ids.npy", {1, 49}, std::vector<std::int64_t>(49, 5));
  bert.refused("--ids " + (bert.inputs / "ids.npy"), "49 tokens; the model has 48 positions");
}

TEST_CASE("embed: what is refused") {
  const Bert bert;
  bert.refused("", "needs either --text TEXT or --ids FILE");
  write_integers<std::int64_t>(bert.inputs / "ids.npy", {2, 3}, {2, 4, 3, 2, 500, 3});
  const std::string ids = "--ids " + (bert.inputs / "ids.npy");
  bert.refused(ids + " --text a", "--text");
  bert.refused("--text a --lengths x.npy", "--lengths needs --ids");
  bert.refused(ids, "is 500; it needs to be 0 or more and less than 128");
  write_integers<std::int64_t>(bert.inputs / "lengths.npy", {2}, {3, 4});
  bert.refused(ids + " --lengths " + (bert.inputs / "lengths.npy"),
               "--lengths[1] is 4; it needs to lie in 1..3");
  write_integers<std::int64_t>(bert.inputs / "lengths.npy", {1}, {3});
  bert.refused(ids + " --lengths " + (bert.inputs / "lengths.npy"), "--lengths has shape [1]");
  check_refused_with(
      attn_demo(
          fmt::format("embed --model {} --text a --out {}", path_of("llama_tiny"), bert.file())),
      "'model_type' is the text 'llama', which is not supported; it needs an encoder");
  check_refused_with(attn_demo(fmt::format("generate --model {} --prompt a", bert.folder / "")),
                     "it needs a decoder; this is an encoder");
}

TEST_CASE("generate: layers with a window keep it alone, and the ids are the same") {
  const std::string folder = path_of("families/mistral_mixed");
  std::ifstream file(folder + "/expected.json");
  const json expected = json::parse(file);
  const std::string text = text_of(fmt::format(
      "generate --model {} --prompt-ids {} --temperature 0 --print-ids --max-new 10 --ignore-eos "
      "--dtype f32",
      folder, fmt::join(expected["prompt"].get<std::vector<int>>(), ",")));
  CHECK(text.starts_with(
      fmt::format("{}\n", fmt::join(expected["greedy"].get<std::vector<int>>(), ","))));
  CHECK(text.find("56 tokens; 2 of 3 layers keep a window") != std::string::npos);
}

TEST_CASE("generate: several prompts give the texts that each gives alone") {
  for (const char* const model : {"families/mistral_mixed", "families/phi3", "llama_tiny"}) {
    CAPTURE(model);
    const std::string run =
        fmt::format("generate --model {} --print-ids --quiet --max-new 12 --dtype f32 --seed 4 ",
                    path_of(model));
    const std::vector<std::string> prompts = {"65,66,67", "9", "1,2,3,4,5,6,7,8,9,10,11,12,13",
                                              "20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,"
                                              "37,38,39,40,41,42,43"};
    for (const char* const sampling : {"--temperature 0", "--temperature 1.5"}) {
      std::string together, alone;
      for (const std::string& prompt : prompts) {
        together += " --prompt-ids " + prompt;
        alone += text_of(run + sampling + " --prompt-ids " + prompt);
      }
      CHECK(text_of(run + sampling + together) == alone);
    }
  }
  check_refused_with(attn_demo(fmt::format("generate --model {} --prompt-ids 1 --prompt-ids 2 "
                                           "--logits x.npy",
                                           path_of("llama_tiny"))),
                     "--logits needs a single prompt");
}
