// Files that the tokenizer refuses: with one line that names the file and the fault.
#include <attn/error.hpp>
#include <attn/tokenizer.hpp>

#include <doctest/doctest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/files.hpp"
#include "support/tokenizer_json.hpp"

using namespace attn;
using namespace attn::test;
using nlohmann::json;

namespace {

/// Changes small_file(), and checks that it is refused with a line that says `fault`.
void check_changed(ErrorCode code, const std::string& fault,
                   const std::function<void(json&)>& change) {
  const Folder folder;
  json file = small_file();
  change(file);
  CAPTURE(fault);
  try {
    tokenizer_from(folder, file);
    FAIL_CHECK("not refused");
  } catch (const Error& error) {
    const std::string message = error.what();
    CAPTURE(message);
    CHECK(error.code() == code);
    CHECK(message.find("tokenizer.json: ") != std::string::npos);
    CHECK(message.find(fault) != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
  }
}

}  // namespace

TEST_CASE("broken files are refused") {
  const auto check = [](const std::string& fault, const std::function<void(json&)>& change) {
    check_changed(ErrorCode::io, fault, change);
  };
  check("it needs to be an object", [](json& file) { file = json::array(); });
  check("lacks 'model'", [](json& file) { file.erase("model"); });
  check("'model' is 3", [](json& file) { file["model"] = 3; });
  check("vocab", [](json& file) { file["model"].erase("vocab"); });
  check("vocab", [](json& file) { file["model"]["vocab"] = json::array(); });
  check("model.vocab is empty", [](json& file) { file["model"]["vocab"] = json::object(); });
  check("without text", [](json& file) { file["model"]["vocab"][""] = 60; });
  check("the id of token 'a' is '-1'", [](json& file) { file["model"]["vocab"]["a"] = -1; });
  check("the id of token 'a' is '1.5'", [](json& file) { file["model"]["vocab"]["a"] = 1.5; });
  check("the id of token 'a' is '18446744073709551615'",
        [](json& file) { file["model"]["vocab"]["a"] = UINT64_MAX; });
  check("the id of token 'a' is '1048576'",
        [](json& file) { file["model"]["vocab"]["a"] = 1 << 20; });
  check("the id of token 'a' is 'no number'",
        [](json& file) { file["model"]["vocab"]["a"] = json::array({1}); });
  check("token 'b' has the id 0, which another",
        [](json& file) { file["model"]["vocab"]["b"] = 0; });
  check("merges", [](json& file) { file["model"].erase("merges"); });
  check("merges", [](json& file) { file["model"]["merges"] = "a b"; });
  check("model.merges[1] is of 'a' and 'z', but model.vocab lacks 'az'",
        [](json& file) { file["model"]["merges"][1] = "a z"; });
  check("model.vocab lacks 'A'", [](json& file) {
    file["model"]["merges"][1] = json::array({"A", "b"});
  });
  for (const json& merge : {json("ab"), json("a b c"), json(1), json::array({"a"}),
                            json::array({"a", 1}), json::array({"a", "b", "c"}), json()}) {
    check("model.merges[0] is no pair", [&](json& file) { file["model"]["merges"][0] = merge; });
  }
  check("unk_token", [](json& file) { file["model"]["unk_token"] = "<unk>"; });
  check("unk_token", [](json& file) { file["model"]["unk_token"] = 4; });
  check("dropout", [](json& file) { file["model"]["dropout"] = "0"; });
  check("added_tokens", [](json& file) { file["added_tokens"] = 1; });
  check("added_tokens", [](json& file) { file["added_tokens"] = json::array({1}); });
  check("id", [](json& file) { file["added_tokens"][0]["id"] = -1; });
  check("id", [](json& file) { file["added_tokens"][0]["id"] = 1 << 20; });
  check("content", [](json& file) { file["added_tokens"][0]["content"] = ""; });
  check("content", [](json& file) { file["added_tokens"][0].erase("content"); });
  check("special", [](json& file) { file["added_tokens"][0]["special"] = 1; });
  check("'<end>' stands twice",
        [](json& file) { file["added_tokens"].push_back(file["added_tokens"][0]); });
  check("has the id 3, which another token has too",
        [](json& file) { file["added_tokens"][0]["id"] = 3; });
  check("has the id 40, but 3 in model.vocab",
        [](json& file) { file["added_tokens"][0]["content"] = "d"; });
  check("type", [](json& file) { file["pre_tokenizer"].erase("type"); });
  check("add_prefix_space", [](json& file) { file["pre_tokenizer"].erase("add_prefix_space"); });
}

TEST_CASE("broken steps of the pre_tokenizer are refused") {
  const auto check = [](const std::string& fault, const std::function<void(json&)>& change) {
    check_changed(ErrorCode::io, fault, change);
  };
  check("more than 64 pretokenizers", [](json& file) {
    const json step = file["pre_tokenizer"];
    file["pre_tokenizer"] = {{"type", "Sequence"},
                             {"pretokenizers", std::vector<json>(1000, step)}};
  });
  const auto check_split = [&](const std::string& fault, const json& split) {
    check(fault, [&](json& file) {
      const json last = file["pre_tokenizer"];
      file["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", json::array({split, last})}};
    });
  };
  const auto regex = [](const std::string& pattern) -> json {
    return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Removed"}};
  };
  check_split("is no regular expression", regex("(a"));
  check_split("is no regular expression", regex(std::string(5000, '(')));
  check_split("is no regular expression", regex("((((a{1,1000}){1,1000}){1,1000}){1,1000})"));
  check_split("at most 16384 are read", regex(std::string(20000, 'a')));
  check_split("behavior", {{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "Kept"}});
  check_split("pattern", {{"type", "Split"}, {"behavior", "Removed"}});
  check_split("Regex", {{"type", "Split"}, {"pattern", {{"Glob", "a"}}}, {"behavior", "Removed"}});
}

TEST_CASE("an added token that is too long is refused") {
  check_changed(ErrorCode::io, "an added token has 1001 bytes; at most 1000 are read",
                [](json& file) { file["added_tokens"][0]["content"] = std::string(1001, 'x'); });
}

TEST_CASE("what is not supported is refused") {
  const auto check = [](const std::string& fault, const std::function<void(json&)>& change) {
    check_changed(ErrorCode::unsupported, fault, change);
  };
  check("model.type", [](json& file) { file["model"]["type"] = "Unigram"; });
  check("byte_fallback", [](json& file) { file["model"]["byte_fallback"] = true; });
  check("dropout", [](json& file) { file["model"]["dropout"] = 0.1; });
  check("continuing_subword_prefix",
        [](json& file) { file["model"]["continuing_subword_prefix"] = "##"; });
  check("end_of_word_suffix", [](json& file) { file["model"]["end_of_word_suffix"] = "</w>"; });
  check("normalizer.type", [](json& file) { file["normalizer"] = {{"type", "NFKC"}}; });
  check("pre_tokenizer.type", [](json& file) { file["pre_tokenizer"] = {{"type", "Script"}}; });
  check("pretokenizers[0].type", [](json& file) {
    const json last = file["pre_tokenizer"];
    file["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", json::array({last, last})}};
  });
  check("its pattern 'a(?~b)' has (?~, the absent operator", [](json& file) {
    const json split{
        {"type", "Split"}, {"pattern", {{"Regex", "a(?~b)"}}}, {"behavior", "Removed"}};
    file["pre_tokenizer"] = {{"type", "Sequence"},
                             {"pretokenizers", json::array({split, file["pre_tokenizer"]})}};
  });
  check("decoder.type", [](json& file) { file["decoder"] = {{"type", "Metaspace"}}; });
  check("post_processor.type", [](json& file) {
    file["post_processor"] = {{"type", "SomeProcessing"}};
  });
}

TEST_CASE("files that are no JSON") {
  const Folder folder;
  const auto check = [&](const std::string& bytes, const std::string& fault) {
    const std::string message =
        refusal([&] { Tokenizer::from_file(folder.write("tokenizer.json", bytes)); });
    CAPTURE(message);
    CHECK(message.find(fault) != std::string::npos);
  };
  check("", "is empty");
  check("{", "no JSON");
  check("{\"model\":\"\xff\"}", "no JSON");
  check(std::string("{}\0", 3), "no JSON");
  check(std::string(1'000'000, '['), "nested deeper");
  std::string objects;
  for (int n = 0; n < 100'000; ++n) objects += R"({"model":)";
  check(objects, "nested deeper");
  check(R"({"model":{},"model":{}})", "stands twice");
  CHECK(refusal([&] { Tokenizer::from_file(folder / "none.json"); }).find("no such file") !=
        std::string::npos);
}
