#include "model/regex_program.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>

namespace attn::model {
namespace {

using Kind = Pattern::Kind;
using Op = Instruction::Op;

/// Groups with an interval are repeated in the program. The longest in use has some hundred
/// instructions.
constexpr std::size_t max_instructions = 100'000;

FirstBytes operator|(FirstBytes a, const FirstBytes& b) {
  return {a.bytes | b.bytes, a.any || b.any};
}

/// The first byte of a character in UTF-8. It grows with the character.
std::size_t lead_byte(std::int32_t code) {
  if (code < 0x80) return static_cast<std::size_t>(code);
  if (code < 0x800) return static_cast<std::size_t>(0xc0 | code >> 6);
  if (code < 0x10000) return static_cast<std::size_t>(0xe0 | code >> 12);
  return static_cast<std::size_t>(0xf0 | code >> 18);
}

FirstBytes first_bytes(const CodeSet& set) {
  FirstBytes first;
  for (const CodeRange& range : set.ranges()) {
    for (std::size_t byte = lead_byte(range.first); byte <= lead_byte(range.last); ++byte)
      if (byte < 0x80 || byte >= 0xc0) first.bytes.set(byte);  // those between begin no character
  }
  return first;
}

/// How many characters a pattern takes. Sums stay at `unlimited`.
struct Width {
  std::size_t min = 0, max = 0;
};

std::size_t bounded_product(std::size_t a, std::size_t b) {
  return a != 0 && b > Pattern::unlimited / a ? Pattern::unlimited : a * b;
}
std::size_t bounded_sum(std::size_t a, std::size_t b) {
  return b > Pattern::unlimited - a ? Pattern::unlimited : a + b;
}

Width width_of(const Pattern& pattern) {
  Width width;
  switch (pattern.kind) {
    case Kind::set: return {1, 1};
    case Kind::sequence:
      for (const Pattern& part : pattern.parts) {
        const Width each = width_of(part);
        width = {bounded_sum(width.min, each.min), bounded_sum(width.max, each.max)};
      }
      return width;
    case Kind::alternatives:
      width.min = Pattern::unlimited;
      for (const Pattern& part : pattern.parts) {
        const Width each = width_of(part);
        width = {std::min(width.min, each.min), std::max(width.max, each.max)};
      }
      return width;
    case Kind::repeat: {
      const Width each = width_of(pattern.parts[0]);
      return {bounded_product(each.min, pattern.min), bounded_product(each.max, pattern.max)};
    }
    case Kind::capture:
    case Kind::atomic: return width_of(pattern.parts[0]);
    case Kind::back_reference: return {0, Pattern::unlimited};
    default: return {};
  }
}

/// How a match of `pattern`, followed by what begins as `after` says, may begin.
FirstBytes first_of(const Pattern& pattern, const FirstBytes& after) {
  FirstBytes first;
  switch (pattern.kind) {
    case Kind::set: return first_bytes(pattern.set);
    case Kind::sequence:
      first = after;
      for (auto part = pattern.parts.rbegin(); part != pattern.parts.rend(); ++part)
        first = first_of(*part, first);
      return first;
    case Kind::alternatives:
      for (const Pattern& part : pattern.parts) first = first | first_of(part, after);
      return first;
    case Kind::repeat: {
      const FirstBytes once = first_of(pattern.parts[0], after);
      return pattern.min == 0 || width_of(pattern.parts[0]).min == 0 ? once | after : once;
    }
    case Kind::capture:
    case Kind::atomic: return first_of(pattern.parts[0], after);
    case Kind::back_reference: return {{}, true};
    default: return after;
  }
}

void collect_references(const Pattern& pattern, std::set<std::size_t>& groups) {
  if (pattern.kind == Kind::back_reference) groups.insert(pattern.group);
  for (const Pattern& part : pattern.parts) collect_references(part, groups);
}

bool depends_on_search(const Pattern& pattern) {
  return (pattern.kind == Kind::assertion && pattern.assertion == Assertion::search_begin) ||
         std::any_of(pattern.parts.begin(), pattern.parts.end(), depends_on_search);
}

bool repeats_one_character(const Pattern& pattern) {
  return pattern.kind == Kind::repeat && pattern.parts[0].kind == Kind::set;
}

/// Whether the pattern begins with as many as possible of one kind of character.
bool begins_with_run(const Pattern& pattern) {
  const Pattern* first = &pattern;
  while (first->kind == Kind::sequence && !first->parts.empty()) first = &first->parts[0];
  return repeats_one_character(*first) && first->max == Pattern::unlimited &&
         first->greed != Greed::lazy;
}

class Compiler {
 public:
  Program program;

  void whole(const Pattern& pattern) {
    collect_references(pattern, referenced_);
    if (!referenced_.empty()) program.num_groups = *referenced_.rbegin() + 1;
    const bool any_leading = referenced_.empty() && !depends_on_search(pattern);
    program.begins = first_of(pattern, anything);
    std::vector<const Pattern*> branches{&pattern};
    if (pattern.kind == Kind::alternatives) {
      branches.clear();
      for (const Pattern& part : pattern.parts) branches.push_back(&part);
    }
    std::bitset<256> started;
    for (const Pattern* const branch : branches) {
      const FirstBytes first = first_of(*branch, anything);
      start_here(first, branch == branches.back(), started);
      add_branch_of_pattern(*branch, first, branch == branches.back(), any_leading);
    }
  }

 private:
  static constexpr FirstBytes anything{{}, true};

  void start_here(const FirstBytes& first, bool is_last, std::bitset<256>& started) {
    for (std::size_t byte = 0; byte < started.size(); ++byte) {
      if (started[byte] || !(first.any || first.bytes[byte] || is_last)) continue;
      program.starts[byte] = here();
      started.set(byte);
    }
  }

  void add_branch_of_pattern(const Pattern& pattern, const FirstBytes& first, bool is_last,
                             bool may_lead) {
    const std::uint32_t branch = is_last ? 0 : add_branch(first);
    const std::uint32_t leading = may_lead && begins_with_run(pattern)
                                      ? static_cast<std::uint32_t>(++program.num_leading)
                                      : 0;
    const std::size_t begin = program.code.size();
    add(pattern, anything);
    program.code[add({.op = Op::accept})].leading = leading;
    program.code[begin].leading = leading;
    if (!is_last) program.code[branch].target = here();
  }

  std::uint32_t here() const { return static_cast<std::uint32_t>(program.code.size()); }

  std::uint32_t add(const Instruction& instruction) {
    if (program.code.size() == max_instructions) {
      throw PatternError(ErrorCode::io, "is no regular expression: its repeats make it too large");
    }
    program.code.push_back(instruction);
    return here() - 1;
  }

  std::uint32_t add_first(const FirstBytes& first) {
    program.firsts.push_back(first);
    return static_cast<std::uint32_t>(program.firsts.size() - 1);
  }

  std::uint32_t add_branch(const FirstBytes& first) {
    return add({.op = Op::branch, .first = add_first(first)});
  }

  std::uint32_t set_number(const CodeSet& set) {
    std::vector<std::int32_t> key;
    for (const CodeRange& range : set.ranges()) key.insert(key.end(), {range.first, range.last});
    const auto [found, is_new] = sets_.emplace(std::move(key), program.sets.size());
    if (is_new) program.sets.emplace_back(set);
    return static_cast<std::uint32_t>(found->second);
  }

  /// `after` says how what follows may begin.
  void add(const Pattern& pattern, const FirstBytes& after) {
    switch (pattern.kind) {
      case Kind::set: add({.op = Op::set, .index = set_number(pattern.set)}); break;
      case Kind::sequence: add_sequence(pattern, after); break;
      case Kind::alternatives: add_alternatives(pattern, after); break;
      case Kind::repeat: add_repeat(pattern, after); break;
      case Kind::capture: add_capture(pattern, after); break;
      case Kind::atomic: add_atomic(pattern.parts[0]); break;
      case Kind::look: add_look(pattern); break;
      case Kind::assertion: add({.op = Op::assertion, .assertion = pattern.assertion}); break;
      case Kind::keep: add({.op = Op::keep}); break;
      case Kind::back_reference:
        add({.op = Op::back_reference, .index = static_cast<std::uint32_t>(pattern.group)});
        break;
    }
  }

  void add_sequence(const Pattern& pattern, const FirstBytes& after) {
    std::vector<FirstBytes> afters(pattern.parts.size(), after);
    for (std::size_t n = pattern.parts.size(); n-- > 1;)
      afters[n - 1] = first_of(pattern.parts[n], afters[n]);
    for (std::size_t n = 0; n < pattern.parts.size(); ++n) add(pattern.parts[n], afters[n]);
  }

  void add_alternatives(const Pattern& pattern, const FirstBytes& after) {
    std::vector<std::uint32_t> ends;
    for (const Pattern& part : pattern.parts) {
      if (&part == &pattern.parts.back()) {
        add(part, after);
        break;
      }
      const std::uint32_t branch = add_branch(first_of(part, after));
      add(part, after);
      ends.push_back(add({.op = Op::jump}));
      program.code[branch].target = here();
    }
    for (const std::uint32_t end : ends) program.code[end].target = here();
  }

  void add_capture(const Pattern& pattern, const FirstBytes& after) {
    if (!referenced_.contains(pattern.group)) return add(pattern.parts[0], after);
    const auto group = static_cast<std::uint32_t>(pattern.group);
    add({.op = Op::capture_begin, .index = group});
    add(pattern.parts[0], after);
    add({.op = Op::capture_end, .index = group});
  }

  std::uint32_t next_mark() { return static_cast<std::uint32_t>(program.num_marks++); }

  void add_atomic(const Pattern& part) {
    const std::uint32_t mark = next_mark();
    add({.op = Op::mark, .index = mark});
    add(part, anything);
    add({.op = Op::commit, .index = mark});
  }

  void add_look(const Pattern& pattern) {
    const std::uint32_t mark = next_mark();
    const std::uint32_t begin =
        add({.op = pattern.negative ? Op::not_mark : Op::mark, .index = mark});
    if (pattern.behind) {
      const Width width = width_of(pattern.parts[0]);
      add({.op = Op::step_back, .min = limited(width.min), .max = limited(width.max)});
    }
    add(pattern.parts[0], anything);
    if (pattern.behind) add({.op = Op::at_mark, .index = mark});
    add({.op = pattern.negative ? Op::not_end : Op::look_end, .index = mark});
    program.code[begin].target = here();
  }

  static std::uint32_t limited(std::size_t count) {
    return static_cast<std::uint32_t>(std::min<std::size_t>(count, unlimited_repeats));
  }

  void add_repeat(const Pattern& pattern, const FirstBytes& after) {
    const Pattern& part = pattern.parts[0];
    if (repeats_one_character(pattern)) {
      add({.op = Op::repeat_set,
           .greed = pattern.greed,
           .index = set_number(part.set),
           .min = limited(pattern.min),
           .max = limited(pattern.max),
           .first = add_first(after)});
      return;
    }
    if (pattern.greed == Greed::possessive) {
      Pattern greedy = pattern;
      greedy.greed = Greed::greedy;
      return add_atomic(greedy);
    }
    const FirstBytes again = first_of(part, after) | after;
    // What takes no characters does the same the second time.
    const std::size_t most = width_of(part).max == 0 ? 1 : Pattern::unlimited;
    for (std::size_t n = 0; n < std::min(pattern.min, most); ++n) add(part, again);
    if (std::min(pattern.max, most) == Pattern::unlimited) return add_loop(pattern, again);
    std::vector<std::uint32_t> ends;
    for (std::size_t n = pattern.min; n < std::min(pattern.max, most); ++n) {
      ends.push_back(add_choice(pattern, again));
      add(part, again);
    }
    for (const std::uint32_t end : ends) program.code[end].target = here();
  }

  /// One more time, or else on at the target, which is still to be set.
  std::uint32_t add_choice(const Pattern& pattern, const FirstBytes& again) {
    if (pattern.greed == Greed::lazy) return add({.op = Op::branch_later});
    return add_branch(first_of(pattern.parts[0], again));
  }

  void add_loop(const Pattern& pattern, const FirstBytes& again) {
    const bool may_be_empty = width_of(pattern.parts[0]).min == 0;
    const std::uint32_t head = add_choice(pattern, again);
    const auto loop = static_cast<std::uint32_t>(program.num_loops);
    if (may_be_empty) {
      ++program.num_loops;
      add({.op = Op::loop_begin, .index = loop});
    }
    add(pattern.parts[0], again);
    std::uint32_t end = head;
    if (may_be_empty) end = add({.op = Op::loop_end, .index = loop});
    add({.op = Op::jump, .target = head});
    program.code[head].target = here();
    if (may_be_empty) program.code[end].target = here();
  }

  std::set<std::size_t> referenced_;
  std::map<std::vector<std::int32_t>, std::size_t> sets_;
};

}  // namespace

SetTable::SetTable(const CodeSet& set) {
  for (std::int32_t code = 0; code < 128; ++code)
    ascii_[static_cast<std::size_t>(code)] = set.contains(code);
  constexpr auto size = static_cast<std::int32_t>(page_size);
  auto range = set.ranges().begin();
  for (std::int32_t begin = 0; begin <= CodeSet::max_code; begin += size) {
    Page page;
    while (range != set.ranges().end() && range->first < begin + size) {
      const std::int32_t last = std::min(range->last, begin + size - 1);
      for (std::int32_t code = std::max(range->first, begin); code <= last; ++code)
        page.set(static_cast<std::size_t>(code - begin));
      if (range->last > last) break;
      ++range;
    }
    // Most pages are like the one before, or all or nothing.
    auto known = pages_.empty() || pages_[page_of_.back()] != page
                     ? std::find(pages_.begin(), pages_.end(), page)
                     : pages_.begin() + page_of_.back();
    if (known == pages_.end()) known = pages_.insert(known, page);
    page_of_.push_back(static_cast<std::uint16_t>(known - pages_.begin()));
  }
}

Program compile(const Pattern& pattern) {
  Compiler compiler;
  compiler.whole(pattern);
  return std::move(compiler.program);
}

}  // namespace attn::model
