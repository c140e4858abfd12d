// tokenizer_config.json: which tokens stand around a text. The ids are those of Transformers 4.57
// with the same files.
#include <attn/error.hpp>
#include <attn/tokenizer.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/files.hpp"
#include "support/tokenizer_json.hpp"

using namespace attn;
using namespace attn::test;
using nlohmann::json;

namespace {

using Ids = std::vector<std::int64_t>;

/// small_file() with the tokens <s> (41) and </s> (42), and a template that puts <end> (40) before
/// a text if `with_template` is true.
json file_of(bool with_template) {
  json file = small_file();
  file["added_tokens"].push_back({{"id", 41}, {"content", "<s>"}, {"special", true}});
  file["added_tokens"].push_back({{"id", 42}, {"content", "</s>"}, {"special", true}});
  if (with_template) {
    file["post_processor"] = json::parse(R"({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<end>", "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<end>": {"id": "<end>", "ids": [40], "tokens": ["<end>"]}}})");
  }
  return file;
}

Tokenizer opened(const Folder& folder, bool with_template, const std::string& config) {
  folder.write("tokenizer.json", file_of(with_template).dump());
  folder.write("tokenizer_config.json", config);
  return Tokenizer::from_folder(folder / "");
}

}  // namespace

TEST_CASE("classes that put tokens around a text") {
  const Folder folder;
  const auto check = [&](const std::string& config, const Ids& expected) {
    CAPTURE(config);
    for (const bool with_template : {false, true}) {
      const Tokenizer tokenizer = opened(folder, with_template, config);
      CHECK(fmt::format("{}", tokenizer.encode("abc")) == fmt::format("{}", expected));
      CHECK(tokenizer.encode("abc", {.add_special = false}) == Ids{28});
      CHECK(tokenizer.notices().empty());
    }
  };
  for (const char* const name :
       {"LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast"}) {
    const std::string begin = fmt::format(R"({{"tokenizer_class": "{}")", name);
    check(begin + "}", {41, 28});
    check(begin + R"(, "add_bos_token": true})", {41, 28});
    check(begin + R"(, "add_bos_token": true, "bos_token": "<end>"})", {40, 28});
    check(begin + R"(, "bos_token": {"content": "<end>", "lstrip": false}})", {40, 28});
    check(begin + R"(, "add_bos_token": false})", {28});
    check(begin + R"(, "add_bos_token": null, "bos_token": null})", {28});
    check(begin + R"(, "add_eos_token": true})", {41, 28, 42});
    check(begin + R"(, "add_bos_token": false, "add_eos_token": true, "eos_token": "<end>"})",
          {28, 40});
  }
  const std::string tokens = R"("bos_token": "<s>", "eos_token": "</s>")";
  check(R"({"tokenizer_class": "CohereTokenizerFast", )" + tokens + "}", {41, 28});
  check(R"({"tokenizer_class": "GemmaTokenizer", )" + tokens + "}", {41, 28});
  check(R"({"tokenizer_class": "GPTNeoXTokenizer", )" + tokens + "}", {28});
  check(R"({"tokenizer_class": "GPTNeoXTokenizerFast", "add_bos_token": true, )" + tokens + "}",
        {41, 28});
}

TEST_CASE("bos() and eos() are the tokens around a text") {
  const Folder folder;
  const Tokenizer tokenizer =
      opened(folder, true, R"({"tokenizer_class": "LlamaTokenizer", "add_eos_token": true})");
  CHECK(tokenizer.bos() == 41);
  CHECK(tokenizer.eos() == 42);
  CHECK(tokenizer.encode("<s>abc", {.add_special = true}) == Ids{41, 41, 28, 42});
}

TEST_CASE("other classes follow neither flag, and what contradicts them is noticed") {
  const Folder folder;
  const auto check = [&](bool with_template, const std::string& config, const Names& faults) {
    CAPTURE(config);
    const Tokenizer tokenizer = opened(folder, with_template, config);
    CHECK(tokenizer.encode("abc") == (with_template ? Ids{40, 28} : Ids{28}));
    REQUIRE(tokenizer.notices().size() == faults.size());
    for (std::size_t n = 0; n < faults.size(); ++n) {
      const std::string& notice = tokenizer.notices()[n];
      CAPTURE(notice);
      CHECK(notice.find("tokenizer_config.json: " + faults[n]) != std::string::npos);
    }
  };
  for (const char* const name : {"PreTrainedTokenizerFast", "Qwen2Tokenizer", "GPT2Tokenizer",
                                 "Qwen2TokenizerFast", "LlamaTokenizerFaster", ""}) {
    const std::string begin =
        fmt::format(R"({{"tokenizer_class": "{}", "bos_token": "<s>", "eos_token": "</s>")", name);
    check(false, begin + "}", {});
    check(true, begin + "}", {});
    check(false, begin + R"(, "add_bos_token": false, "add_eos_token": null})", {});
    check(true, begin + R"(, "add_bos_token": true})", {});
    check(false, begin + R"(, "add_bos_token": true, "add_eos_token": true})",
          {"add_bos_token is true, which ", "add_eos_token is true, which "});
    check(true, begin + R"(, "add_bos_token": false})", {"add_bos_token is false, which "});
  }
  check(false, R"({"add_bos_token": true})",
        {"add_bos_token is true, which a tokenizer without a class does not follow"});
  check(true, "{}", {});
  // The token that would be added is unknown.
  check(true, R"({"tokenizer_class": "LlamaTokenizer", "bos_token": "<unknown>"})",
        {"bos_token '<unknown>' is no token of tokenizer.json, so that add_bos_token is not"});
}

TEST_CASE("a broken tokenizer_config.json is refused; a missing one is none") {
  const Folder folder;
  const auto check = [&](const std::string& config, const std::string& fault) {
    const std::string message = refusal([&] { opened(folder, false, config); });
    CAPTURE(message);
    CHECK(message.find("tokenizer_config.json: ") != std::string::npos);
    CHECK(message.find(fault) != std::string::npos);
  };
  check("", "is empty");
  check("[]", "object");
  const std::string begin = R"({"tokenizer_class": "LlamaTokenizer", )";
  check(begin + R"("add_bos_token": "true"})", "add_bos_token");
  check(begin + R"("add_eos_token": 1})", "add_eos_token");
  check(begin + R"("bos_token": 1})", "bos_token");
  check(begin + R"("bos_token": {}})", "bos_token.content");
  check(begin + R"("bos_token": null})", "a token, because add_bos_token puts it before a text");
  check(R"({"tokenizer_class": ["LlamaTokenizer"]})", "tokenizer_class");
  check(R"({"add_bos_token": 1})", "add_bos_token");

  folder.write("tokenizer.json", file_of(true).dump());
  fs::remove(folder / "tokenizer_config.json");
  CHECK(Tokenizer::from_folder(folder / "").encode("abc") == Ids{40, 28});
  folder.write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})");
  CHECK(Tokenizer::from_file(folder / "tokenizer.json").encode("abc") == Ids{40, 28});
}

TEST_CASE("notices about settings that Transformers' classes of BERT would follow") {
  const Folder folder;
  json file = small_file();
  file["normalizer"] = {{"type", "BertNormalizer"},
                        {"clean_text", true},
                        {"handle_chinese_chars", true},
                        {"strip_accents", nullptr},
                        {"lowercase", false}};
  folder.write("tokenizer.json", file.dump());
  const auto notices = [&](json config, const char* name) {
    config["tokenizer_class"] = name;
    folder.write("tokenizer_config.json", config.dump());
    return Tokenizer::from_folder(folder / "").notices();
  };
  const json same = {{"do_lower_case", false}, {"tokenize_chinese_chars", true}};
  const json other = {{"do_lower_case", true}, {"strip_accents", nullptr}};
  CHECK(notices(same, "BertTokenizer").empty());
  CHECK(notices(other, "PreTrainedTokenizerFast").empty());
  REQUIRE(notices(other, "BertTokenizerFast").size() == 1);
  CHECK(notices(other, "BertTokenizerFast")[0].ends_with(
      "tokenizer_config.json: do_lower_case is true, which is not followed: the normalizer of "
      "tokenizer.json has lowercase of false"));
  CHECK(notices({{"strip_accents", true}, {"tokenize_chinese_chars", false}}, "").size() == 2);
}
