#include "model/regex_matcher.hpp"

#include <algorithm>
#include <cstring>

#include "model/unicode_properties.hpp"

namespace attn::model {
namespace {

using Op = Instruction::Op;

/// Of valid UTF-8.
bool continues(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

struct Decoded {
  std::int32_t code;
  std::ptrdiff_t size;
};

/// The character at `at`, which is valid UTF-8.
inline Decoded decode(const char* at) {
  const auto byte = [at](int n) {
    return static_cast<std::int32_t>(static_cast<unsigned char>(at[n]));
  };
  const auto more = [&](int n) { return byte(n) & 0x3f; };
  if (byte(0) < 0x80) return {byte(0), 1};
  if (byte(0) < 0xe0) return {(byte(0) & 0x1f) << 6 | more(1), 2};
  if (byte(0) < 0xf0) return {(byte(0) & 0x0f) << 12 | more(1) << 6 | more(2), 3};
  return {(byte(0) & 0x07) << 18 | more(1) << 12 | more(2) << 6 | more(3), 4};
}

inline const char* before(const char* at) {
  do --at;
  while (continues(*at));
  return at;
}

/// The size of the character at `at` if it is in the set, else 0.
inline std::ptrdiff_t size_in(const SetTable& set, const char* at) {
  const auto byte = static_cast<unsigned char>(*at);
  if (byte < 0x80) return set.contains_ascii(byte) ? 1 : 0;
  const Decoded character = decode(at);
  return set.contains(character.code) ? character.size : 0;
}

const SetTable& word_table() {
  static const SetTable table(word_characters_alone());
  return table;
}

}  // namespace

Matcher::Matcher(const Program& program, std::string_view text, MatchSteps& steps)
    : program_(program),
      steps_(steps),
      begin_(text.data()),
      end_(text.data() + text.size()),
      // A group that is repeated leaves a choice or two for each character.
      max_choices_((std::size_t{1} << 20) + 4 * text.size()),
      marks_(program.num_marks),
      groups_(program.num_groups),
      loops_(program.num_loops),
      no_match_before_(program.num_leading, text.data()) {}

std::optional<Range> Matcher::search(std::size_t begin) {
  search_begin_ = begin_ + begin;
  for (Text at = search_begin_;; at += decode(at).size) {
    const Text from = at;
    while (at != end_ && !may_begin(program_.begins, at)) ++at;
    use(static_cast<std::size_t>(at - from) + 1);
    if (match_here(at)) {
      return Range{static_cast<std::size_t>(match_begin_ - begin_),
                   static_cast<std::size_t>(at_ - begin_)};
    }
    if (at == end_) return std::nullopt;
  }
}

bool Matcher::match_here(Text at) {
  match_begin_ = at_ = at;
  next_ = at == end_ ? 0 : program_.starts[static_cast<unsigned char>(*at)];
  choices_.clear();
  for (Group& group : groups_) group = {};
  for (;;) {
    use(1);
    const Instruction& instruction = program_.code[next_++];
    if (instruction.op == Op::accept) {
      if (instruction.leading > 0) no_match_before_[instruction.leading - 1] = begin_;
      return true;
    }
    if (!step(instruction) && !backtrack()) return false;
  }
}

/// Does what an instruction says, or returns false.
bool Matcher::step(const Instruction& instruction) {
  using Kind = Choice::Kind;
  switch (instruction.op) {
    case Op::set: return take_one(instruction);
    case Op::repeat_set: return take_run(instruction);
    case Op::branch:
      if (may_begin(program_.firsts[instruction.first], at_)) {
        push({Kind::go_on, instruction.target, at_, 0});
      } else {
        next_ = instruction.target;
      }
      return true;
    case Op::branch_later:
      push({Kind::go_on, next_, at_, 0});
      next_ = instruction.target;
      return true;
    case Op::jump: next_ = instruction.target; return true;
    case Op::assertion: return holds(instruction.assertion);
    case Op::capture_begin:
    case Op::capture_end: {
      Group& group = groups_[instruction.index];
      push({Kind::group, instruction.index, group.begin,
            reinterpret_cast<std::uintptr_t>(group.end)});
      (instruction.op == Op::capture_begin ? group.begin : group.end) = at_;
      return true;
    }
    case Op::back_reference: return back_reference(groups_[instruction.index]);
    case Op::keep:
      push({Kind::keep, 0, match_begin_, 0});
      match_begin_ = at_;
      return true;
    case Op::not_mark:
    case Op::mark:
      marks_[instruction.index] = {at_, choices_.size()};
      if (instruction.op == Op::not_mark) push({Kind::go_on, instruction.target, at_, 0});
      return true;
    case Op::commit: drop_choices(marks_[instruction.index]); return true;
    case Op::look_end:
      drop_choices(marks_[instruction.index]);
      at_ = marks_[instruction.index].at;
      return true;
    case Op::not_end: drop_choices(marks_[instruction.index]); return false;
    case Op::step_back: return step_back(instruction.min, instruction.max - instruction.min);
    case Op::at_mark: return at_ == marks_[instruction.index].at;
    case Op::loop_begin:
      push({Kind::loop, instruction.index, loops_[instruction.index], 0});
      loops_[instruction.index] = at_;
      return true;
    case Op::loop_end:
      if (at_ == loops_[instruction.index]) next_ = instruction.target;
      return true;
    case Op::accept: break;
  }
  return true;
}

/// Takes the last choice. Returns false if there is none.
bool Matcher::backtrack() {
  using Kind = Choice::Kind;
  while (!choices_.empty()) {
    use(1);
    Choice& choice = choices_.back();
    switch (choice.kind) {
      case Kind::give_back:
        if (give_back(choice)) return true;
        break;
      case Kind::take_more:
        if (take_more(choice)) return true;
        break;
      case Kind::go_on:
        at_ = choice.at;
        next_ = choice.target;
        choices_.pop_back();
        return true;
      case Kind::step_back: {
        const Choice last = choice;
        choices_.pop_back();
        at_ = last.at;
        next_ = last.target;
        if (step_back(1, last.limit - 1)) return true;
        continue;
      }
      case Kind::group:
        groups_[choice.target] = {choice.at, reinterpret_cast<Text>(choice.limit)};
        break;
      case Kind::keep: match_begin_ = choice.at; break;
      case Kind::loop: loops_[choice.target] = choice.at; break;
    }
    choices_.pop_back();
  }
  return false;
}

bool Matcher::take_one(const Instruction& instruction) {
  if (at_ == end_) return false;
  const std::ptrdiff_t size = size_in(program_.sets[instruction.index], at_);
  at_ += size;
  return size > 0;
}

/// Goes past at most `max` characters of the set.
Matcher::Text Matcher::skip_set(const SetTable& set, Text at, std::size_t max,
                                std::size_t& count) const {
  for (count = 0; at != end_ && count < max; ++count) {
    const std::ptrdiff_t size = size_in(set, at);
    if (size == 0) break;
    at += size;
  }
  return at;
}

bool Matcher::take_run(const Instruction& instruction) {
  const SetTable& set = program_.sets[instruction.index];
  if (instruction.leading > 0 && at_ < no_match_before_[instruction.leading - 1]) return false;
  std::size_t count = 0;
  at_ = skip_set(set, at_, instruction.min, count);
  use(count);
  if (count < instruction.min) return false;
  const Text least = at_;
  const std::size_t more =
      instruction.max == unlimited_repeats ? Pattern::unlimited : instruction.max - instruction.min;
  if (instruction.greed == Greed::lazy) {
    if (more > 0) push({Choice::Kind::take_more, next_, at_, more});
    return true;
  }
  at_ = skip_set(set, at_, more, count);
  use(count);
  if (instruction.leading > 0) no_match_before_[instruction.leading - 1] = at_;
  if (instruction.greed == Greed::greedy && at_ != least) {
    push({Choice::Kind::give_back, next_, at_, reinterpret_cast<std::uintptr_t>(least)});
    const FirstBytes& first = program_.firsts[instruction.first];
    if (!may_begin(first, at_)) return false;  // and backtracking gives back
  }
  return true;
}

/// Gives back characters until what follows may begin.
bool Matcher::give_back(Choice& choice) {
  const Text least = reinterpret_cast<Text>(choice.limit);
  const FirstBytes& first = program_.firsts[program_.code[choice.target - 1].first];
  Text at = choice.at;
  const Text from = at;
  do at = before(at);
  while (at > least && !may_begin(first, at));
  use(static_cast<std::size_t>(from - at));
  if (!may_begin(first, at)) return false;
  at_ = choice.at = at;
  next_ = choice.target;
  if (at == least) choices_.pop_back();
  return true;
}

bool Matcher::take_more(Choice& choice) {
  const SetTable& set = program_.sets[program_.code[choice.target - 1].index];
  if (choice.at == end_) return false;
  const std::ptrdiff_t size = size_in(set, choice.at);
  if (size == 0) return false;
  at_ = choice.at += size;
  next_ = choice.target;
  if (--choice.limit == 0) choices_.pop_back();
  return true;
}

/// Goes back `min` characters, and offers to go back up to `more` further.
bool Matcher::step_back(std::size_t min, std::size_t more) {
  for (std::size_t n = 0; n < min; ++n) {
    if (at_ == begin_) return false;
    at_ = before(at_);
    use(1);
  }
  if (more > 0) push({Choice::Kind::step_back, next_, at_, more});
  return true;
}

bool Matcher::back_reference(const Group& group) {
  if (group.begin == nullptr || group.end == nullptr || group.end < group.begin) return false;
  const auto size = static_cast<std::size_t>(group.end - group.begin);
  use(size);
  if (static_cast<std::size_t>(end_ - at_) < size || std::memcmp(at_, group.begin, size) != 0)
    return false;
  at_ += size;
  return true;
}

bool Matcher::word_before() const {
  return at_ != begin_ && size_in(word_table(), before(at_)) > 0;
}

bool Matcher::word_here() const { return at_ != end_ && size_in(word_table(), at_) > 0; }

bool Matcher::holds(Assertion assertion) const {
  const bool at_end = at_ == end_;
  switch (assertion) {
    case Assertion::text_begin: return at_ == begin_;
    case Assertion::text_end: return at_end;
    case Assertion::last_line_end: return at_end || (at_ + 1 == end_ && *at_ == '\n');
    case Assertion::line_begin: return at_ == begin_ || (!at_end && at_[-1] == '\n');
    case Assertion::line_end: return at_end || *at_ == '\n';
    case Assertion::word_boundary: return word_before() != word_here();
    case Assertion::no_boundary: return word_before() == word_here();
    case Assertion::search_begin: return at_ == search_begin_;
  }
  return false;
}

/// Drops the choices since a mark, but not what has to be set back if the mark is passed backward.
void Matcher::drop_choices(const Mark& mark) {
  using Kind = Choice::Kind;
  const auto begin = choices_.begin() + static_cast<std::ptrdiff_t>(mark.num_choices);
  use(static_cast<std::size_t>(choices_.end() - begin));
  const auto is_way = [](const Choice& choice) {
    return choice.kind != Kind::group && choice.kind != Kind::keep && choice.kind != Kind::loop;
  };
  choices_.erase(std::remove_if(begin, choices_.end(), is_way), choices_.end());
}

void Matcher::push(const Choice& choice) {
  if (choices_.size() == max_choices_) throw TooManySteps();
  choices_.push_back(choice);
}

}  // namespace attn::model
