// Patterns of tokenizer.json: matches as Hugging Face's tokenizers 0.23 finds them, what is
// refused, and the limit of steps.
#include <attn/error.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "model/regex.hpp"
#include "support/check_fails.hpp"

using namespace attn;
using namespace attn::test;
using attn::model::MatchSteps;
using attn::model::PatternKind;
using attn::model::Range;
using attn::model::Regex;

namespace {

/// The text with each match in angle brackets.
std::string marked(const Regex& regex, const std::string& text) {
  MatchSteps steps(text.size());
  std::string result;
  std::size_t end = 0;
  for (const Range& match : regex.find_all(text, steps)) {
    result += text.substr(end, match.begin - end) + '<';
    result += text.substr(match.begin, match.end - match.begin) + '>';
    end = match.end;
  }
  return result + text.substr(end);
}

/// `expected` is a text with each match of the pattern in angle brackets.
void check(const std::string& pattern, const std::string& expected) {
  std::string text = expected;
  text.erase(std::remove_if(text.begin(), text.end(), [](char c) { return c == '<' || c == '>'; }),
             text.end());
  CAPTURE(pattern);
  CHECK(marked(Regex("file", pattern, PatternKind::expression), text) == expected);
}

void check_refused(ErrorCode code, const std::string& pattern, const std::string& fault) {
  CAPTURE(pattern);
  try {
    Regex("file", pattern, PatternKind::expression);
    FAIL_CHECK("not refused");
  } catch (const Error& error) {
    const std::string message = error.what();
    CAPTURE(message);
    CHECK(error.code() == code);
    CHECK(message.find("file: its pattern '") == 0);
    CHECK(message.find(fault) != std::string::npos);
  }
}

std::string repeated(const std::string& part, std::size_t size) {
  std::string text;
  while (text.size() < size) text += part;
  return text;
}

}  // namespace

TEST_CASE("Classes intersect, nest and invert") {
  check(R"([\p{L}&&[^\p{Han}]]+)", "<b>\u6587");
  check("[a-z&&[^aeiou]&&[^x-z]]", "a<b><c>xyz");
  check("[^a-c&&b-d]", "<a>bc<d><e>");
  check(R"([^(\s|[.,!])]+)", "<a>.<b>(<c> <d>|<e>");
  check("[a&&]", "a&");
  check("[]a]", "<a><]>b");
  check("[^]a]", "a]<b>");
  check("[a-c-e]", "<a><-><b>d<e>");
  check("[-a]", "<a><->b");
  check("[a-]", "<a><->b");
  check("[!--]", "<!><+><->.");
  check("[a^]", "<a><^>b");
  check(R"([\]\\])", "<]><\\>a");
  check(R"([a\-c])", "<a><->b<c>");
  check("[[:alpha:]-]", "<a><->1");
  check("[[:^digit:]_]+", "<a_>1");
  check("[^[:alpha:]]", "a<1>");
  check("[:a]", "<:><a>b");
  check("[[^a]&&[a-c]]", "a<b><c>d");
  check(R"([\x{4e00}-\x{9fff}])", "a<\u6587>");
  check(R"([\b])", "b<\010>");
  check(R"([\R])", "<R>\n");
}

TEST_CASE("Anchors stand at every line") {
  check(R"(\s+$)", "a< >\nb");
  check(R"(^\w)", "<a>b\n<c>d\n");
  check("$", "a<>\n<>");
  check(R"(\n^)", "a\n");
  check(R"(b\Z)", "b\n<b>\n");
  check(R"(b\z)", "b\n<b>");
  check(R"(\Ab)", "<b>b");
  check("a$", "a\r\n<a>");
  check(R"(\Gab)", "<ab><ab>xab");
}

TEST_CASE("White space, words and digits are Unicode's") {
  check(R"(\s+|[^\s]+)", "<a>< ><\u180eb>");
  check(R"(\s)", "<\t><\013>\034<\302\205><\u00a0>\u200b<\u2028><\u3000>\ufeff");
  check(R"(\w+)", "<e\u0301\u093e_\u203f>");
  check(R"(\w)", "\u200d<\u24b6>\u2460<\u2167><\u00b2>");
  check(R"([\w])", "\u00b2\u00bd<\u00aa>");
  check(R"(\p{Word})", "<\u00b2>");
  check(R"([^\W])", "\u00b2<a>");
  check(R"(\b.)", "<x>\u00b2< ><e>\u0301");
  check(R"(\d)", "<1><\u0663><\u0968>\u00b2<\uff12>");
  check(R"(\h+)", "<f>g<9>\uff19");
  check(R"(\H)", "a<g>");
  check("[[:punct:]]", "<$><\u20ac><!><\u24b6>\u2460<\u00b0>");
  check(R"(\p{Punct})", "$\u20ac<!>\u24b6");
  check("[[:alnum:]]", "<a><\u0345>\u00b2<\u0663>");
  check("[[:blank:]]", "<\t><\u00a0>\n");
  check("[[:print:]]", "\037< >\u2028\u0378");
  check("[[:upper:]]", "<A>a<\u24b6>\u01c5");
  check("[[:xdigit:]]", "<f>g");
}

TEST_CASE("Properties") {
  check(R"(\p{Han})", "<\u3005><\u3007>\u30fc<\u6587>");
  check(R"(\p{Katakana})", "\u30fc<\u30a2>");
  check(R"(\p{^Han})", "<a>\u6587");
  check(R"(\P{^Han})", "a<\u6587>");
  check(R"(\p{Grek})", "a<\u03b1>");
  check(R"(\p{ lower-case_Letter })", "<a>A");
  check(R"(\pL)", "<pL>a");
  check(R"(\p{LC})", "<a><\u01c5>\u02b0");
  check(R"(\p{S})", "<\U0001fae8><\U0001fadf>");
  check(R"(\p{L}+)", "<\u1c89\u1c8a\U0002ebf0>\U000323b0");
  check(R"(\p{Cn})", "<\u0378><\U00010940>a");
  check(R"(\p{Emoji})", "<1><\u263a><\U0001f600>a");
  check(R"(\p{White_Space})", "<\302\205>\u200b");
}

TEST_CASE("Newlines") {
  check(".", "<a>\n<\r><\u2028>");
  check("(?m).", "<a><\n>");
  check(R"((?m:.)\n.)", "<a\nb>\n\n");
  check(R"(\N)", "<a>\n");
  check(R"(\O)", "<a><\n>");
  check(R"(\R)", "<\r\n><\n><\r><\013><\302\205><\u2028>");
  check(R"(\r\R)", "<\r\n><\r\n><\r\r>");
  check("[^a]", "a<\n>");
}

TEST_CASE("Letters of either case") {
  check("(?i:'s|'t)", "<'S><'\u017f><'t><'s>");
  check("(?i:'s|'t)", "'\ufb06a<'S>'\ufb05");
  check("(?i)[a-z]", "\ufb05<a>");
  check("(?i)[^s]", "<\ufb06>s");
  check("(?i)k", "<K><k><\u212a>");
  check("(?i)[s]", "<s><\u017f><S>");
  check("(?i)[^s]", "s\u017fS<a>");
  check(R"((?i)\p{Lu})", "a<A>");
  check(R"((?i)[^\p{Lu}])", "aA<1>");
  check("a(?i)b|c", "<aB><aC>C");
  check("(?i:a)b", "<Ab>AB");
  check("(?i:a(?-i)b|c)", "AB<Ab>C");
  check(R"((?i)\u03c3)", "<\u03c2><\u03a3>");
  check(R"((?i)\u10d0)", "<\u1c90>");
  check(R"((?i)\u1c8a)", "<\u1c89>");
}

TEST_CASE("Repeats") {
  check("a{2}+", "<aaaa>a");
  check("a{1,2}+a", "<aaa>");
  check("a{,2}", "<aa><a>");
  check("a{,}", "<a{,}>");
  check("a{", "<a{>");
  check("a{3,1}a", "<aaaa>");
  check("xa{2}?b", "<xb><xaab>");
  check("a{1,2}?b", "<aab>");
  check("a++a", "aa");
  check("a*+", "<aa>b<>");
  check("(?:ab?)*+b", "a<b>a<b>");
  check("a**", "<aa>");
  check("a{2}{2}", "<aaaa>a");
  check("(?:a|b*)*c", "<abbc>");
  check(R"((a|b)\1)", "<aa><bb>ab");
  check(R"((?<n>a|b)(c)\k<n>)", "<aca><bcb>");
  check("(?>a|ab)c", "<ac>abc");
  check("(?=a)|b", "<>a<b>");
  check(R"(b\K)", "ab<>ab<>");
  check("a|", "<>b<a>");
  check("b(?i:^)*(?m:$){2}", "a<b>\nb ");
  check("", "<>a<>b<>");
}

TEST_CASE("Look-behind") {
  check("(?<=a|bc)d", "a<d>bc<d>d");
  check("(?<=a*)d", "aaa<d>");
  check("(?<!a+)d", "aad<d>");
  check(R"((?<=[\u3040-\u30ff])\u6587)", "\u3042<\u6587>\u6587");
  check("(?<!^)a", "a<a>");
}

TEST_CASE("Escapes, comments and white space") {
  check(R"(\x{e9}\u00e9\xc3\xa9)", "<\u00e9\u00e9\u00e9>");
  check(R"(\Qa.\E)", "Qa.<Qa.E>");
  check(R"(\e\a\f\v)", "<\033\007\014\013>");
  check(R"(\_\-\/)", "<_-/>");
  check("(?x) a [ b] # c\n c", "<a c> <a c><abc>");
  check("(?x: a b )c d", "<abc d>");
  check("a(?#b)+", "<aaa>");
}

TEST_CASE("Patterns of published tokenizers") {
  check(R"([\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lo}\p{M}&&[^\p{Han}]]*)"
        R"([\p{Ll}\p{Lo}\p{M}&&[^\p{Han}]]+)",
        "<\u6587\u5b57>< and>< \u0915\u093e><\u6587>");
  check(R"( ?[^(\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+)",
        "<a>.< b>(<c> |< d>\u3002");
  check(R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}|)"
        R"( ?[^\s\p{L}\p{N}]++[\r\n]*|\s+)",
        "<I><'Ll>< be><123><4>< !!\n>< \U0001fae8>");
  check(R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]*[\p{Ll}\p{M}]+(?i:'s)?|)"
        R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]+)",
        "<Hello>< WORLD><'s>< Wo'\u017f>");
}

TEST_CASE("What is not supported is refused by name") {
  const auto check = [](const std::string& pattern, const std::string& fault) {
    check_refused(ErrorCode::unsupported, pattern, fault);
  };
  check("a(?~b)", "has (?~, the absent operator before its byte 4, which is not supported");
  check("(a)(?(1)b|c)", "(?(, a condition");
  check("(?{x})", "(?{, a callout");
  check("(*FAIL)", "(*, a callout");
  check(R"((?<n>a)\g<n>)", "\\g, the call of a group");
  for (const char* const escape : {"\\X", "\\y", "\\Y"}) check(escape, "grapheme clusters");
  check("(?P<n>a)", "the option P");
  check("(?W:\\w)", "the option W");
  check("(?y{g}a)", "the option y");
  check(R"(\cA)", "a control or meta escape");
  check(R"(\M-a)", "a control or meta escape");
  check(R"(\x{61 62})", "an escape of several characters");
  check(R"(\p{InBasicLatin})", "the property 'InBasicLatin'");
  check(R"([\p{Nonsense}])", "the property 'Nonsense'");
  check("(?i)\u00df", "U+00DF under (?i)");
  check("(?i)ss", "two characters under (?i) that U+00DF matches");
  check("(?i:s(?:t))", "two characters under (?i) that U+FB05 matches");
  check("(?i)[\u00df]", "a class under (?i) with U+00DF");
  check(R"((a)(?i)\1)", "a back reference under (?i)");
  check("(?<n>a)(?<n>b)", "two groups named 'n'");
  check(R"((?<n>a)\k<m>)", "a reference to 'm'");
  check("[a-[b]]", "a class at the end of a range");
  for (const char* const part : {"(?>a)", "a++", "(?=a)", "\\K", "\\R"})
    check("(?<=" + std::string(part) + ")", "a look-behind with");
}

TEST_CASE("What is malformed is refused") {
  const auto check = [](const std::string& pattern, const std::string& fault) {
    check_refused(ErrorCode::io, pattern, "is no regular expression: " + fault);
  };
  check("(a", "a ( without )");
  check("a)", "a ) without (");
  check("*a", "nothing to repeat");
  check("a|+", "nothing to repeat");
  check("{2}", "nothing to repeat");
  check("a{100001}", "too large a number");
  check("[a", "a class has no ]");
  check("[]", "an empty class");
  check("[[]", "an empty class");
  check("[z-a]", "an empty range");
  check(R"([a-\d])", "a set at the end of a range");
  check(R"([\d-x])", "a range that begins with a set");
  check("[[:foo:]]", "the POSIX bracket 'foo'");
  check("a\\", "a backslash");
  check(R"(\u12)", "too few hexadecimal digits");
  check(R"(\ud800)", "the number of no character");
  check(R"(\x{110000})", "the number of no character");
  check(R"(\xe9)", "bytes that are no character");
  check(R"(\p{L)", "a property has no '}'");
  check(R"(\1)", "a reference to a group that is not there");
  check(R"((?<n>a)(b)\1)", "a reference by number besides named groups");
  check("(?<1>a)", "the name '1' of a group");
  check("(?a)", "an unknown kind of group");
  check("(?#a", "a comment has no ')'");
  check(repeated("(", 5000), "too many nested groups");
  check(repeated("[", 5000), "too many nested classes");
  check("((((a{1,1000}){1,1000}){1,1000}){1,1000})", "its repeats make it too large");
  check("(?:(?:){100000}){100000}a{1,2}{1,100000}{1,100000}", "its repeats make it too large");
}

TEST_CASE("Usual patterns take a time that is linear in the length of a text") {
  const std::string words =
      R"((?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
      R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
  const std::string cases = R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lo}\p{M}]*[\p{Ll}\p{Lo}\p{M}]+|)"
                            R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lo}\p{M}]+[\p{Ll}\p{Lo}\p{M}]*)";
  for (const std::string& pattern :
       {words, cases, std::string(R"(\s+$|\w+@)"), std::string(R"((?:\p{L}\p{M}*)+)")}) {
    const Regex regex("file", pattern, PatternKind::expression);
    for (const char* const part : {"a", "A", " ", "\n", "1", "\u6587", "e\u0301", "\u0301", "!"}) {
      const std::string text = repeated(part, 500'000) + "x";
      MatchSteps steps(text.size());
      CAPTURE(pattern);
      CAPTURE(part);
      CHECK_NOTHROW(regex.find_all(text, steps));
    }
  }
}

TEST_CASE("A pattern that takes too many steps is refused in time") {
  for (const char* const pattern :
       {"[ab]*[ab]*[cd]", "(a+)+$", "(a|aa)+$", " ?a*c", "a+?c", R"((a*)\1c)", "(?:a|b)*c",
        "(?=.*c).*(?<=c.*)", R"(\d|(?:a?){30}a{30}c)", "x|(?:(?=a*c)|a)*c"}) {
    const Regex regex("file", pattern, PatternKind::expression);
    const std::string text = repeated("a", 100'000) + "b";
    MatchSteps steps(text.size());
    const std::string message = refusal([&] { regex.find_all(text, steps); });
    CAPTURE(pattern);
    CHECK(message.find("takes too many steps on a text of 100001 bytes") != std::string::npos);
  }
}

TEST_CASE("All patterns share the steps") {
  const Regex regex("file", " ?a*c", PatternKind::expression);
  const std::string text(3000, 'a');
  MatchSteps one(text.size()), many(text.size());
  CHECK(regex.find_all(text, one).empty());
  CHECK_THROWS_AS(
      [&] {
        for (int n = 0; n < 100; ++n) regex.find_all(text, many);
      }(),
      Error);
}

TEST_CASE("Digits are numbers of a later version of Unicode than that of patterns") {
  CHECK(marked(Regex::digits(), "a1\u00bd\u2167\U00011de3\u6587") ==
        "a<1><\u00bd><\u2167><\U00011de3>\u6587");
  check(R"(\p{N})", "<1>\U00011de3");
}

TEST_CASE("A literal is no pattern") {
  CHECK(marked(Regex("file", "x.", PatternKind::literal), "xax.") == "xa<x.>");
  CHECK(marked(Regex("file", "\u6587(", PatternKind::literal), "a\u6587(") == "a<\u6587(>");
}
