// The tokenizer against tokens that a plain Python version computed (tests/data/tokenizers), and
// against examples of single rules.
#include <attn/error.hpp>
#include <attn/tokenizer.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/files.hpp"
#include "support/random.hpp"
#include "support/seeds.hpp"
#include "support/tokenizer_json.hpp"

using namespace attn;
using namespace attn::test;
using nlohmann::json;

namespace {

using Ids = std::vector<std::int64_t>;

Tokenizer made(const std::string& family) {
  return Tokenizer::from_file(ATTN_TEST_DATA "/tokenizer_" + family + ".json");
}

std::string from_hex(const std::string& digits) {
  std::string bytes;
  for (std::size_t n = 0; n < digits.size(); n += 2)
    bytes += static_cast<char>(std::stoi(digits.substr(n, 2), nullptr, 16));
  return bytes;
}

/// The texts of the tokens, joined by bars, which shows how a text was split.
std::string cut(const Tokenizer& tokenizer, const std::string& text) {
  std::vector<std::string> pieces;
  for (const std::int64_t id : tokenizer.encode(text)) pieces.push_back(tokenizer.piece(id));
  return fmt::format("{}", fmt::join(pieces, "|"));
}

/// Random bytes, most of which are parts of characters.
std::string random_text(Random& random) {
  static const std::vector<std::string> parts{" ",
                                              "  ",
                                              "\n",
                                              "\r\n",
                                              "\t",
                                              "a",
                                              "the",
                                              "'s",
                                              "'LL",
                                              "12345",
                                              "...",
                                              "<|im_end|>",
                                              "<",
                                              "é",
                                              "ß",
                                              "漢",
                                              "🙂",
                                              "\xff",
                                              "\xc3",
                                              "\xe2\x82",
                                              "\xed\xa0\x80",
                                              std::string(1, '\0'),
                                              "pier",
                                              "\u3000"};
  std::string text;
  for (std::int64_t left = random.integer(0, 30); left > 0; --left) {
    if (random.chance(0.1)) {
      text += static_cast<char>(random.integer(0, 255));
    } else {
      text += parts[static_cast<std::size_t>(
          random.integer(0, static_cast<std::int64_t>(parts.size()) - 1))];
    }
  }
  return text;
}

}  // namespace

TEST_CASE("tokens are those of the plain version") {
  const json expected = json::parse(bytes_of(ATTN_TEST_DATA "/tokens_expected.json"));
  CHECK(expected.size() == 3);
  for (const auto& item : expected.items()) {
    const std::string family = item.key();
    const json& cases = item.value();
    const Tokenizer tokenizer = made(family);
    CHECK(cases.size() > 80);
    for (const json& each : cases) {
      const std::string text = from_hex(each["text"]);
      CAPTURE(family);
      CAPTURE(text);
      CHECK(fmt::format("{}", tokenizer.encode(text)) == fmt::format("{}", each["ids"].get<Ids>()));
    }
  }
}

TEST_CASE("decode returns what was encoded, for any bytes") {
  for (const char* const family : {"gpt2", "llama3"}) {
    const Tokenizer tokenizer = made(family);
    std::string all;
    for (int byte = 0; byte < 256; ++byte) {
      const std::string one(1, static_cast<char>(byte));
      CHECK(tokenizer.decode(tokenizer.encode(one, {.add_special = false})) == one);
      all += one;
    }
    CHECK(tokenizer.decode(tokenizer.encode(all, {.add_special = false})) == all);
    for (const std::uint64_t seed : seeds(0, 500)) {
      Random random(seed);
      const std::string text = random_text(random);
      INFO(repeat_command(seed));
      CHECK(tokenizer.decode(tokenizer.encode(text, {.add_special = false})) == text);
      CHECK(tokenizer.decode(tokenizer.encode(text, {.match_special = false}),
                             SpecialTokens::skip) == text);
    }
  }
}

TEST_CASE("the ids of bytes() are the bytes") {
  Tokenizer first = Tokenizer::bytes();
  const Tokenizer tokenizer = std::move(first);
  CHECK(tokenizer.encode("a\xff ") == Ids{97, 255, 32});
  CHECK(first.encode("a") == Ids{97});  // a move is a copy
  CHECK(tokenizer.decode(Ids{104, 105}) == "hi");
  CHECK(tokenizer.vocab_size() == 256);
  CHECK(!tokenizer.bos());
  CHECK(!tokenizer.eos());
  CHECK(!tokenizer.is_special(0));
  CHECK(tokenizer.encode("").empty());
}

TEST_CASE("special tokens") {
  const Tokenizer llama = made("llama3");
  CHECK(llama.bos() == llama.added_token("<|begin_of_text|>"));
  CHECK(!llama.eos());
  CHECK(!llama.added_token("the"));
  const std::int64_t end = *llama.added_token("<|eot_id|>");
  CHECK(llama.is_special(end));
  CHECK(llama.piece(end) == "<|eot_id|>");
  CHECK(llama.vocab_size() == end + 1);
  CHECK(!llama.is_special(0));
  CHECK(!llama.is_special(-1));
  CHECK(!llama.is_special(1'000'000));
  CHECK(llama.encode("<|eot_id|>") == Ids{*llama.bos(), end});
  CHECK(llama.encode("<|eot_id|>", {.add_special = false}) == Ids{end});
  const Ids spelled = llama.encode("<|eot_id|>", {.add_special = false, .match_special = false});
  CHECK(spelled.size() > 1);
  CHECK(llama.decode(spelled, SpecialTokens::skip) == "<|eot_id|>");
  CHECK(llama.decode(Ids{*llama.bos(), 'x', end}, SpecialTokens::skip) == "x");
  CHECK(llama.decode(Ids{*llama.bos(), 'x', end}) == "<|begin_of_text|>x<|eot_id|>");

  // A token that is not special is found whatever match_special says.
  const Tokenizer qwen = made("qwen");
  const std::int64_t tool = *qwen.added_token("<tool>");
  CHECK(!qwen.is_special(tool));
  CHECK(qwen.encode("<tool>", {.match_special = false}) == Ids{tool});
}

TEST_CASE("ids that name no token") {
  const Folder folder;
  const Tokenizer tokenizer = tokenizer_from(folder, small_file());
  CHECK(tokenizer.vocab_size() == 41);
  for (const std::int64_t id :
       {std::int64_t{-1}, std::int64_t{29}, std::int64_t{41}, INT64_MAX, INT64_MIN}) {
    try {
      tokenizer.piece(id);
      FAIL("id ", id);
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::invalid_argument);
      CHECK(std::string(error.what()).find(fmt::format("token id {} names no token", id)) == 0);
    }
    CHECK_THROWS_AS(tokenizer.decode(Ids{0, id}), Error);
  }
}

TEST_CASE("splits: every behavior, inverted or not") {
  const Folder folder;
  const auto check = [&](const json& split, const std::string& expected) {
    json file = small_file();
    // All letters of a piece are merged to one token, so that the tokens show the pieces.
    file["model"] = model_of({"xx", "ab", "abxx", "xxab", "xxxx"},
                             json::array({"x x", "a b", "ab xx", "xx ab", "xx xx"}));
    file["pre_tokenizer"] = {{"type", "Sequence"},
                             {"pretokenizers", json::array({split, byte_level(false, false)})}};
    CHECK(cut(tokenizer_from(folder, file), "abxxxxab") == expected);
  };
  const auto split = [](const std::string& pattern, const std::string& behavior,
                        bool invert = false, const char* kind = "Regex") -> json {
    return {{"type", "Split"},
            {"pattern", {{kind, pattern}}},
            {"behavior", behavior},
            {"invert", invert}};
  };
  check(split("xx", "Removed"), "ab|ab");
  check(split("xx", "Isolated"), "ab|xx|xx|ab");
  check(split("xx", "MergedWithPrevious"), "abxx|xx|ab");
  check(split("xx", "MergedWithNext"), "ab|xx|xxab");
  check(split("xx", "Contiguous"), "ab|xxxx|ab");
  check(split("ab", "Removed", true), "ab|ab");
  check(split("ab", "Isolated", true), "ab|xxxx|ab");
  check(split("ab", "MergedWithPrevious", true), "abxx|xx|ab");
  check(split("ab", "Contiguous", true), "ab|xxxx|ab");
  check(split("xx", "Removed", false, "String"), "ab|ab");
  check(split("x.", "Removed", false, "String"), "abxx|xxab");
  check(split("(?=ab)", "Isolated"), "abxx|xx|ab");
  check(split("b\\K", "Isolated"), "ab|xx|xxab");
  check(split("x", "MergedWithNext"),
        "ab|x|x|x|x|ab");  // a match merges with one neighbor only
  check(split("x+|(?=a)", "MergedWithNext"), "ab|xx|xxab");  // no empty match right after a match
  check(split("nothing", "Removed"), "abxx|xxab");
}

TEST_CASE("added tokens that begin alike: the longest is found") {
  const Folder folder;
  json file = small_file();
  const std::string longest(1000, 'X');
  const Names texts{"X", "XY", "XYz", "XYzzY", "Y", "YX", "Y ", longest};
  std::int64_t id = 41;
  for (const std::string& text : texts)
    file["added_tokens"].push_back({{"id", id++}, {"content", text}, {"special", false}});
  const Tokenizer tokenizer = tokenizer_from(folder, file);
  CHECK(cut(tokenizer, "XYzzXYzzYY YXXz") == "XYz|z|XYzzY|Y |YX|X|z");
  CHECK(cut(tokenizer, "XYzz") == "XYz|z");
  CHECK(tokenizer.encode(longest + "Y") == Ids{48, 45});
  const std::string shorter = std::string(999, 'X') + "Y";
  CHECK(tokenizer.encode(shorter).size() == 999);
  file["added_tokens"][8]["special"] = true;
  CHECK(tokenizer_from(folder, file).encode(longest, {.match_special = false}).size() == 1000);
}

TEST_CASE("digits, prefix spaces and unknown bytes") {
  const Folder folder;
  json file = small_file();
  file["model"]["vocab"].update({{"1", 30}, {"11", 31}, {"?", 32}, {"\u0120a", 33}});
  file["model"]["merges"] = json::array({json::array({"1", "1"}), json::array({"\u0120", "a"})});
  const auto with_digits = [&](const char* key, bool individual) {
    json changed = file;
    changed["pre_tokenizer"] = {
        {"type", "Sequence"},
        {"pretokenizers",
         json::array({{{"type", "Digits"}, {key, individual}}, byte_level(false, false)})}};
    return cut(tokenizer_from(folder, changed), "a11b1");
  };
  CHECK(with_digits("individual_digits", true) == "a|1|1|b|1");
  CHECK(with_digits("individual_digits", false) == "a|11|b|1");

  file["pre_tokenizer"] = byte_level(true, true);
  CHECK(cut(tokenizer_from(folder, file), "a<end>a") == " a|<end>| a");
  CHECK(cut(tokenizer_from(folder, file), " a") == " a");

  CHECK(cut(tokenizer_from(folder, file), "aXYb") == " a|b");  // bytes without a token are left out
  file["model"]["unk_token"] = "?";
  file["pre_tokenizer"] = byte_level(false, true);
  CHECK(cut(tokenizer_from(folder, file), "aXYb") == "a|?|?|b");
  file["model"]["fuse_unk"] = true;
  CHECK(cut(tokenizer_from(folder, file), "aXYb") == "a|?|b");
}

TEST_CASE("bytes that are not UTF-8 merge only with each other") {
  const Folder folder;
  json file = small_file();
  file["model"]["vocab"].update({{"\u00ff", 30}, {"\u00ff\u00ff", 31}, {"a\u00ff", 32}});
  file["model"]["merges"] = json::array({"\u00ff \u00ff", "a \u00ff"});
  CHECK(tokenizer_from(folder, file).encode("a\xff\xff") == Ids{0, 31});
}

TEST_CASE("added tokens are normalized as the text is, unless they are special") {
  const Folder folder;
  json file = small_file();
  file["normalizer"] = {{"type", "NFC"}};
  file["model"]["unk_token"] = "z";
  for (const bool special : {false, true}) {
    file["added_tokens"][0] = {{"id", 40}, {"content", "e\u0301"}, {"special", special}};
    const Tokenizer tokenizer = tokenizer_from(folder, file);
    CHECK((tokenizer.encode("\u00e9") == Ids{40}) == !special);
    CHECK(tokenizer.encode("e\u0301") == Ids{40});
    CHECK(tokenizer.piece(40) == "e\u0301");
  }
}

TEST_CASE("templates put tokens around a text") {
  const Folder folder;
  json file = small_file();
  const auto special = [](const char* id) -> json {
    return {{"SpecialToken", {{"id", id}, {"type_id", 0}}}};
  };
  const json text{{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json known{{"<s>", {{"ids", {40}}}}, {"</s>", {{"ids", {1, 2}}}}};
  file["post_processor"] = {{"type", "TemplateProcessing"},
                            {"single", json::array({special("<s>"), text, special("</s>")})},
                            {"special_tokens", known}};
  Tokenizer tokenizer = tokenizer_from(folder, file);
  CHECK(tokenizer.encode("abc") == Ids{40, 28, 1, 2});
  CHECK(tokenizer.bos() == 40);
  CHECK(tokenizer.eos() == 2);
  CHECK(tokenizer.encode("abc", {.add_special = false}) == Ids{28});

  const auto check = [&](const json& single, const std::string& fault) {
    file["post_processor"]["single"] = single;
    const std::string message = refusal([&] { tokenizer_from(folder, file); });
    CAPTURE(message);
    CHECK(message.find(fault) != std::string::npos);
  };
  check(json::array(), "lacks the text A");
  check(json::array({text, text}), "the text A once");
  check(json::array({special("<x>"), text}), "<x>");
  check(json::array({json::object(), text}), "Sequence");
  check(json(std::vector<json>(100, special("<s>"))), "more than 64 tokens");
  file["post_processor"]["special_tokens"]["<s>"]["ids"] = {39};
  check(json::array({special("<s>"), text}), "an id of no token");
}

TEST_CASE("time grows with the length of a piece, not with its square") {
  const Tokenizer tokenizer = made("gpt2");
  for (const char* const part : {"a", "the", "\xff", " "}) {
    std::string text;
    while (text.size() < 1'000'000) text += part;
    CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
  }
}

TEST_CASE("a pattern whose backtracking multiplies is refused in time") {
  const Folder folder;
  json file = small_file();
  for (const std::string pattern : {"(a+)+$", "(a|aa)+$", "(?:a?){30}a{30}b", "(.*)*\\1\\1b"}) {
    const json split{
        {"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}};
    file["pre_tokenizer"] = {{"type", "Sequence"},
                             {"pretokenizers", json::array({split, byte_level(false, false)})}};
    const Tokenizer tokenizer = tokenizer_from(folder, file);
    std::string text(5001, 'a');
    text.back() = 'b';
    const std::string message = refusal([&] { tokenizer.encode(text); });
    CAPTURE(pattern);
    CAPTURE(message);
    const bool refused_well =
        message.find("takes too many steps on a text of 5001 bytes") != std::string::npos;
    CHECK((message.empty() || refused_well));
    if (pattern == "(a+)+$") CHECK(!message.empty());
  }
}

TEST_CASE("several threads use one tokenizer") {
  const Tokenizer tokenizer = made("qwen");
  const std::string text = bytes_of(ATTN_TEST_DATA "/README.md");
  const Ids expected = tokenizer.encode(text);
  std::vector<Ids> found(4);
  std::vector<std::thread> threads;
  for (Ids& ids : found) threads.emplace_back([&, copy = tokenizer] { ids = copy.encode(text); });
  for (std::thread& thread : threads) thread.join();
  for (const Ids& ids : found) CHECK(ids == expected);
}
