// WordPiece, and BPE of characters with bytes for those that have no token, against what Hugging
// Face's tokenizers reads (data/tokenizers/README.md).
#include <attn/error.hpp>
#include <attn/tokenizer.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/check_fails.hpp"
#include "support/files.hpp"

using namespace attn;
using namespace attn::test;
using nlohmann::json;

namespace {

using Ids = std::vector<std::int64_t>;

std::string file_of(const std::string& kind) {
  return std::string(ATTN_TEST_DATA "/word_") + kind + ".json";
}

const json& expected() {
  static const json values = json::parse(bytes_of(ATTN_TEST_DATA "/word_expected.json"));
  return values;
}

std::string from_hex(const std::string& digits) {
  std::string bytes;
  for (std::size_t n = 0; n < digits.size(); n += 2)
    bytes += static_cast<char>(std::stoi(digits.substr(n, 2), nullptr, 16));
  return bytes;
}

/// The tokenizer of a file that a test has changed.
Tokenizer changed(const std::string& kind, const std::function<void(json&)>& edit) {
  json file = json::parse(bytes_of(file_of(kind)));
  edit(file);
  const Folder folder;
  return Tokenizer::from_file(folder.write("tokenizer.json", file.dump()));
}

void check_unsupported(const std::string& kind, const std::vector<std::string>& fragments,
                       const std::function<void(json&)>& edit) {
  CAPTURE(kind);
  check_fails(ErrorCode::unsupported, fragments, [&] { changed(kind, edit); });
}

}  // namespace

TEST_CASE("Ids are those of Hugging Face's tokenizers, without truncation and padding") {
  for (const auto& item : expected()["ids"].items()) {
    const std::string kind = item.key();
    const json& all = item.value();
    const Tokenizer tokenizer = Tokenizer::from_file(file_of(kind));
    for (std::size_t n = 0; n < all.size(); ++n) {
      const std::string text = from_hex(expected()["texts"][n]);
      CAPTURE(kind);
      CAPTURE(text);
      CHECK(fmt::format("{}", tokenizer.encode(text)) == fmt::format("{}", all[n].get<Ids>()));
    }
  }
}

TEST_CASE("Text is decoded as there") {
  for (const auto& item : expected()["decoded"].items()) {
    const std::string kind = item.key();
    const json& all = item.value();
    const Tokenizer tokenizer = Tokenizer::from_file(file_of(kind));
    for (const json& each : all) {
      CAPTURE(kind);
      CHECK(tokenizer.decode(each[0].get<Ids>(), SpecialTokens::skip) ==
            each[1].get<std::string>());
    }
  }
}

TEST_CASE("Bytes that are not UTF-8") {
  const Tokenizer llama = Tokenizer::from_file(file_of("llama2"));
  const Ids ids = llama.encode("\xff\xc3", {.add_special = false});
  CHECK(llama.decode(ids) == "\xff\xc3");
  const Tokenizer bert = Tokenizer::from_file(file_of("bert_uncased"));
  CHECK(bert.encode("a\xff") == Ids{2, bert.encode("a")[1], 1, 3});
}

TEST_CASE("BertProcessing puts the same tokens around a text as its template") {
  const Tokenizer bert = Tokenizer::from_file(file_of("bert_uncased"));
  const Tokenizer same = changed("bert_uncased", [](json& file) {
    file["post_processor"] = {
        {"type", "BertProcessing"}, {"sep", {"[SEP]", 3}}, {"cls", {"[CLS]", 2}}};
  });
  CHECK(same.encode("the end") == bert.encode("the end"));
  CHECK(same.bos() == 2);
  CHECK(same.eos() == 3);
}

TEST_CASE("A WordPiece of an older file, which names no type") {
  const Tokenizer same = changed("bert_uncased", [](json& file) { file["model"].erase("type"); });
  CHECK(same.encode("the end of it") ==
        Tokenizer::from_file(file_of("bert_uncased")).encode("the end of it"));
}

TEST_CASE("Other parts are refused by name") {
  check_unsupported("llama2", {"'version' is the text '2.0'", "\"1.0\""},
                    [](json& file) { file["version"] = "2.0"; });
  check_unsupported("bert_uncased", {"model.type", "Unigram", "BPE or WordPiece"},
                    [](json& file) { file["model"]["type"] = "Unigram"; });
  for (const char* type : {"StripAccents", "NFKC", "Precompiled", "Nmt"}) {
    check_unsupported("llama2", {"normalizer.type", type, "BertNormalizer"}, [&](json& file) {
      file["normalizer"] = {{"type", type}};
    });
  }
  for (const char* type : {"UnicodeScripts", "CharDelimiterSplit"}) {
    check_unsupported("llama2", {"pre_tokenizer.type", type, "Metaspace"}, [&](json& file) {
      file["pre_tokenizer"] = {{"type", type}};
    });
  }
  check_unsupported("llama2", {"decoder.type", "CTC"}, [](json& file) {
    file["decoder"] = {{"type", "CTC"}};
  });
  check_unsupported("llama2", {"Strip", "Fuse"}, [](json& file) {
    file["decoder"] = {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}};
  });
  check_unsupported("llama2", {"byte_fallback"}, [](json& file) {
    file["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  });
}

TEST_CASE("Broken parts are refused") {
  const auto refused = [](const std::string& kind, const std::vector<std::string>& fragments,
                          const std::function<void(json&)>& edit) {
    check_fails(ErrorCode::io, fragments, [&] { changed(kind, edit); });
  };
  refused("bert_uncased", {"unk_token", "a token of model.vocab"},
          [](json& file) { file["model"]["unk_token"] = "[NONE]"; });
  refused("bert_uncased", {"continuing_subword_prefix"},
          [](json& file) { file["model"].erase("continuing_subword_prefix"); });
  refused("metaspace_first", {"replacement", "one character"},
          [](json& file) { file["pre_tokenizer"]["replacement"] = "ab"; });
  refused("metaspace_first", {"prepend_scheme", "always, first or never"},
          [](json& file) { file["pre_tokenizer"]["prepend_scheme"] = "last"; });
  refused("steps", {"cls", "the id of a token"},
          [](json& file) { file["post_processor"]["cls"][1] = 5000; });
}

TEST_CASE("Long texts take linear time") {
  const std::string words(200'000, 'x');
  std::string spaced;
  for (int n = 0; n < 100'000; ++n) spaced += "x ";
  for (const char* kind : {"bert_uncased", "llama2", "metaspace_split", "steps"}) {
    const Tokenizer tokenizer = Tokenizer::from_file(file_of(kind));
    CHECK(!tokenizer.encode(words).empty());
    CHECK(tokenizer.encode(spaced).size() > 90'000);
  }
}
