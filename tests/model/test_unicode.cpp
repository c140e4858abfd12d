// Normal form C, against UAX #15 and against an ordering by exchanges of neighbors.
#include "model/unicode.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "support/random.hpp"
#include "support/seeds.hpp"

using namespace attn::test;
using attn::model::to_nfc;

namespace {

std::string repeated(const std::string& part, std::size_t count) {
  std::string text;
  for (std::size_t n = 0; n < count; ++n) text += part;
  return text;
}

struct Mark {
  std::string text;
  int combining_class;
};

}  // namespace

TEST_CASE("normal form C: examples") {
  CHECK(to_nfc("") == "");
  CHECK(to_nfc("plain") == "plain");
  CHECK(to_nfc("e\u0301") == "\u00e9");
  CHECK(to_nfc("\u00e9") == "\u00e9");
  CHECK(to_nfc("\u212b") == "\u00c5");               // the sign of angstrom
  CHECK(to_nfc("\u0958") == "\u0915\u093c");         // excluded from composition
  CHECK(to_nfc("a\u0301\u0327") == "\u00e1\u0327");  // marks of other classes do not block
  CHECK(to_nfc("a\u0308\u0301") == "\u00e4\u0301");  // the second mark has the same class
  CHECK(to_nfc("\u1e0b\u0323") == "\u1e0d\u0307");   // the dot below comes first
  CHECK(to_nfc("\u1112\u1161\u11ab") == "\ud55c");   // Hangul
  CHECK(to_nfc("\u0301\u0327a") ==
        "\u0327\u0301"
        "a");
  CHECK(to_nfc("\u0344") == "\u0308\u0301");
  CHECK(to_nfc("\U0001D15E") == "\U0001D157\U0001D165");
}

TEST_CASE("normal form C: marks are sorted by their class, and keep their order within one") {
  // None of these composes with q.
  const std::vector<Mark> marks{{"\u0334", 1},   {"\u0327", 202}, {"\u0323", 220}, {"\u0316", 220},
                                {"\u0301", 230}, {"\u0308", 230}, {"\u0315", 232}, {"\u0345", 240}};
  for (const std::uint64_t seed : seeds(0, 200)) {
    Random random(seed);
    std::string text = "q", expected = "q";
    std::vector<Mark> run;
    for (std::int64_t left = random.integer(0, 40); left > 0; --left) {
      run.push_back(marks[static_cast<std::size_t>(random.integer(0, 7))]);
      text += run.back().text;
    }
    for (std::size_t last = run.size(); last > 1; --last) {
      for (std::size_t n = 1; n < last; ++n) {
        if (run[n].combining_class < run[n - 1].combining_class) std::swap(run[n], run[n - 1]);
      }
    }
    for (const Mark& mark : run) expected += mark.text;
    INFO(repeat_command(seed));
    // U+0308 and U+0301 next to each other do not compose: both are marks.
    CHECK(to_nfc(text) == expected);
  }
}

TEST_CASE("normal form C: a long run of marks takes no time that is quadratic in its length") {
  constexpr std::size_t count = 300'000;
  const std::string text = "a" + repeated("\u0301", count) + repeated("\u0327", count);
  const std::string expected = "\u00e1" + repeated("\u0327", count) + repeated("\u0301", count - 1);
  CHECK((to_nfc(text) == expected));
  const std::string dots = repeated("\u0323\u0307", count);
  CHECK((to_nfc("\u1e0b" + dots) ==
         "\u1e0d" + repeated("\u0323", count - 1) + repeated("\u0307", count + 1)));
}
