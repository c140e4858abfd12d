// Patterns as programs of a backtracking matcher.
#pragma once

#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "model/code_set.hpp"
#include "model/regex_syntax.hpp"

namespace attn::model {

/// A set in a form that is quick to search: a table for ASCII, and bits by pages of 256 characters
/// for the others. Equal pages are stored once.
class SetTable {
 public:
  explicit SetTable(const CodeSet& set);

  bool contains_ascii(unsigned char byte) const noexcept { return ascii_[byte]; }
  bool contains(std::int32_t code) const noexcept {
    const auto index = static_cast<std::size_t>(code);
    return pages_[page_of_[index / page_size]][index % page_size];
  }

 private:
  static constexpr std::size_t page_size = 256;
  using Page = std::bitset<page_size>;

  std::array<bool, 128> ascii_{};
  std::vector<std::uint16_t> page_of_;
  std::vector<Page> pages_;
};

/// How a text may begin: with one of these bytes, or with anything at all, its end included.
struct FirstBytes {
  std::bitset<256> bytes;
  bool any = false;
};

struct Instruction {
  enum class Op : std::uint8_t {
    set,           // a character of sets[index]
    repeat_set,    // min to max of them, as `greed` says
    branch,        // goes on; if that fails, at `target`. Goes there at once if the text does not
                   // begin as firsts[index] says
    branch_later,  // goes on at `target`; if that fails, here
    jump,          // goes on at `target`
    assertion,
    capture_begin,
    capture_end,
    back_reference,
    keep,
    mark,        // remembers where the text and the stack of alternatives are, as marks[index]
    not_mark,    // the same; if what follows fails, the match goes on at `target`
    commit,      // drops the alternatives since marks[index]
    look_end,    // the same, and goes back in the text to where the mark is
    not_end,     // fails, and the alternatives since marks[index] with it
    step_back,   // goes back `min` characters, and if what follows fails, up to `max`
    at_mark,     // fails unless the text is where marks[index] is
    loop_begin,  // remembers where the text is, as loops[index]
    loop_end,    // fails to go round again, and goes on at `target`, if the text is still there
    accept,
  };

  Op op = Op::accept;
  Greed greed = Greed::greedy;
  Assertion assertion{};
  std::uint32_t index = 0;
  std::uint32_t target = 0;
  std::uint32_t min = 0, max = 0;  // unlimited_repeats: no limit
  /// repeat_set: how what follows may begin. branch: see above.
  std::uint32_t first = 0;
  /// repeat_set and accept: the number of the pattern's alternative, counted from 1, if a repeat
  /// without limit begins it; else 0.
  std::uint32_t leading = 0;
};
constexpr std::uint32_t unlimited_repeats = std::numeric_limits<std::uint32_t>::max();

struct Program {
  std::vector<Instruction> code;
  std::vector<SetTable> sets;
  std::vector<FirstBytes> firsts;
  FirstBytes begins;  // how a match may begin
  /// By the byte that a text begins with: the first of the pattern's alternatives that may match.
  std::array<std::uint32_t, 256> starts{};
  std::size_t num_marks = 0, num_loops = 0, num_groups = 0, num_leading = 0;
};

/// Throws PatternError if the program would be too large.
Program compile(const Pattern& pattern);

}  // namespace attn::model
