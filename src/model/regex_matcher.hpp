// Runs the program of a pattern on a text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "model/regex.hpp"
#include "model/regex_program.hpp"

namespace attn::model {

/// Thrown if a pattern takes too many steps, or too much memory to backtrack.
struct TooManySteps {};

class Matcher {
 public:
  Matcher(const Program& program, std::string_view text, MatchSteps& steps);

  /// The leftmost match that begins at or after `begin`, or nothing. Throws TooManySteps.
  std::optional<Range> search(std::size_t begin);

 private:
  using Text = const char*;

  /// What to do when a way to match has failed.
  struct Choice {
    enum class Kind : std::uint32_t {
      go_on,      // at `target`, with the text at `at`
      give_back,  // the same, after a repeat of one character gave back one; `limit` is the least
      take_more,  // the same, after a lazy repeat took one more; `limit` counts those it may take
      step_back,  // the same, after a look behind went back one more; `limit` counts those it may
      group,      // sets the begin and end of group `target` back to `at` and `limit`
      keep,       // sets the begin of the match back to `at`
      loop,       // sets loop `target` back to `at`
    };
    Kind kind;
    std::uint32_t target;
    Text at;
    std::uintptr_t limit;
  };
  struct Group {
    Text begin = nullptr, end = nullptr;
  };
  struct Mark {
    Text at = nullptr;
    std::size_t num_choices = 0;
  };

  bool match_here(Text at);
  bool step(const Instruction& instruction);
  bool backtrack();
  bool take_one(const Instruction& instruction);
  bool take_run(const Instruction& instruction);
  bool give_back(Choice& choice);
  bool take_more(Choice& choice);
  bool step_back(std::size_t min, std::size_t more);
  bool back_reference(const Group& group);
  bool holds(Assertion assertion) const;
  bool word_before() const;
  bool word_here() const;
  void drop_choices(const Mark& mark);
  void push(const Choice& choice);
  void use(std::size_t count) {
    if (!steps_.take(count)) throw TooManySteps();
  }
  bool may_begin(const FirstBytes& first, Text at) const {
    return first.any || (at != end_ && first.bytes[static_cast<unsigned char>(*at)]);
  }
  Text skip_set(const SetTable& set, Text at, std::size_t max, std::size_t& count) const;

  const Program& program_;
  MatchSteps& steps_;
  Text begin_, end_;
  std::size_t max_choices_;

  Text search_begin_ = nullptr, match_begin_ = nullptr, at_ = nullptr;
  std::uint32_t next_ = 0;  // instruction
  std::vector<Choice> choices_;
  std::vector<Mark> marks_;
  std::vector<Group> groups_;
  std::vector<Text> loops_;
  /// For each alternative of the pattern that begins with a run: up to here it cannot match. If it
  /// fails after the whole run, it fails after any part of it, too, because every place where the
  /// part could end has been tried.
  std::vector<Text> no_match_before_;
};

}  // namespace attn::model
