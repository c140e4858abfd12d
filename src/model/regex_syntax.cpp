#include "model/regex_syntax.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "io/message.hpp"
#include "model/regex_reader.hpp"
#include "model/unicode.hpp"
#include "model/unicode_properties.hpp"

namespace attn::model {
namespace {

using io::in_quotes;
using Kind = Pattern::Kind;

constexpr int max_depth = 250;
constexpr std::size_t max_repeats = 100'000;

struct Options {
  bool ignore_case = false;  // i
  bool dot_all = false;      // m
  bool extended = false;     // x
};

Pattern set_of(CodeSet set) { return {.kind = Kind::set, .set = std::move(set)}; }

Pattern around(Kind kind, Pattern part) {
  Pattern pattern{.kind = kind};
  pattern.parts.push_back(std::move(part));
  return pattern;
}

Pattern repeated(Pattern part, std::size_t min, std::size_t max, Greed greed) {
  Pattern pattern = around(Kind::repeat, std::move(part));
  pattern.min = min;
  pattern.max = max;
  pattern.greed = greed;
  return pattern;
}

Pattern asserted(Assertion assertion) { return {.kind = Kind::assertion, .assertion = assertion}; }

/// \R: any kind of newline, of which CR LF is one.
Pattern any_newline() {
  Pattern pair;
  pair.parts.push_back(set_of(CodeSet('\r', '\r')));
  pair.parts.push_back(set_of(CodeSet('\n', '\n')));
  Pattern either{.kind = Kind::alternatives};
  either.parts.push_back(std::move(pair));
  either.parts.push_back(
      set_of(CodeSet('\n', '\r') | CodeSet(0x85, 0x85) | CodeSet(0x2028, 0x2029)));
  return around(Kind::atomic, std::move(either));
}

class Parser {
 public:
  explicit Parser(std::string_view text) : reader_(text) {}

  Pattern whole() {
    Pattern pattern = alternatives({});
    if (!reader_.at_end()) reader_.malformed("a ) without (");
    check_references();
    return pattern;
  }

 private:
  Pattern alternatives(Options options) {
    if (++depth_ > max_depth) reader_.malformed("too many nested groups");
    Pattern all{.kind = Kind::alternatives};
    do all.parts.push_back(sequence(options));
    while (reader_.accept("|"));
    --depth_;
    return all.parts.size() == 1 ? std::move(all.parts.front()) : std::move(all);
  }

  Pattern sequence(const Options& options) {
    Pattern all;
    for (;;) {
      skip_comments(options);
      if (reader_.at_end() || reader_.peek() == '|' || reader_.peek() == ')') break;
      Pattern next = quantified(item(options), options);
      if (next.kind == Kind::sequence) {
        std::move(next.parts.begin(), next.parts.end(), std::back_inserter(all.parts));
      } else {
        all.parts.push_back(std::move(next));
      }
    }
    refuse_long_folds(all.parts);
    return all.parts.size() == 1 ? std::move(all.parts.front()) : std::move(all);
  }

  /// (?#...) and, under (?x), white space and comments up to the end of their line.
  void skip_comments(const Options& options) {
    constexpr std::string_view spaces = " \t\n\r\f";
    for (;;) {
      if (reader_.accept("(?#")) {
        reader_.take_until(")", "a comment");
      } else if (options.extended && !reader_.at_end() &&
                 spaces.find(reader_.peek()) != std::string_view::npos) {
        reader_.skip(1);
      } else if (options.extended && reader_.peek() == '#') {
        reader_.skip(std::min(reader_.rest().find('\n'), reader_.rest().size()));
      } else {
        return;
      }
    }
  }

  Pattern item(const Options& options) {
    switch (reader_.peek()) {
      case '(': reader_.skip(1); return group(options);
      case '[': reader_.skip(1); return set_of(reader_.take_class(options.ignore_case));
      case '\\': reader_.skip(1); return escape(options);
      case '^': reader_.skip(1); return asserted(Assertion::line_begin);
      case '$': reader_.skip(1); return asserted(Assertion::line_end);
      case '.': reader_.skip(1); return set_of(options.dot_all ? ~CodeSet() : ~CodeSet('\n', '\n'));
      case '*':
      case '+':
      case '?': reader_.malformed("nothing to repeat");
      default: break;
    }
    if (interval()) reader_.malformed("nothing to repeat");
    return character(reader_.take_character(), options);
  }

  Pattern character(std::int32_t code, const Options& options) {
    CodeSet set(code, code);
    if (!options.ignore_case) return set_of(std::move(set));
    if (long_fold_in(set)) {
      reader_.unsupported(fmt::format("U+{:04X} under (?i), which several characters match", code));
    }
    Pattern pattern = set_of(with_other_cases(set));
    pattern.ignores_case = true;
    return pattern;
  }

  /// Under (?i), ss also matches U+00DF.
  void refuse_long_folds(const std::vector<Pattern>& parts) const {
    for (std::size_t n = 1; n < parts.size(); ++n) {
      if (!parts[n - 1].ignores_case || !parts[n].ignores_case) continue;
      const std::optional<std::int32_t> code =
          long_fold_of(parts[n - 1].set.ranges()[0].first, parts[n].set.ranges()[0].first);
      if (code) {
        reader_.unsupported(fmt::format("two characters under (?i) that U+{:04X} matches", *code));
      }
    }
  }

  Pattern escape(const Options& options) {
    constexpr std::pair<char, Assertion> assertions[] = {
        {'A', Assertion::text_begin},    {'z', Assertion::text_end},
        {'Z', Assertion::last_line_end}, {'b', Assertion::word_boundary},
        {'B', Assertion::no_boundary},   {'G', Assertion::search_begin}};
    const char letter = reader_.peek();
    for (const auto& [name, assertion] : assertions) {
      if (letter == name) {
        reader_.skip(1);
        return asserted(assertion);
      }
    }
    switch (letter) {
      case 'K': reader_.skip(1); return {.kind = Kind::keep};
      case 'R': reader_.skip(1); return any_newline();
      case 'N': reader_.skip(1); return set_of(~CodeSet('\n', '\n'));
      case 'O': reader_.skip(1); return set_of(~CodeSet());
      case 'X':
      case 'y':
      case 'Y': reader_.skip(1); reader_.unsupported("\\X, \\y or \\Y, of grapheme clusters");
      case 'g': reader_.skip(1); reader_.unsupported("\\g, the call of a group");
      case 'k': reader_.skip(1); return named_reference(options);
      default: break;
    }
    if (std::optional<CodeSet> set = reader_.take_set_escape(false)) return set_of(std::move(*set));
    if (letter >= '1' && letter <= '9') return numbered_reference(options);
    return character(reader_.take_character_escape(), options);
  }

  Pattern reference(std::size_t number, const Options& options) {
    if (options.ignore_case) reader_.unsupported("a back reference under (?i)");
    last_reference_ = std::max(last_reference_, number);
    return {.kind = Kind::back_reference, .group = number};
  }

  /// A number of one digit refers to a group; a greater one does if there are as many groups, and
  /// is the number of a character, in octal digits, if not.
  Pattern numbered_reference(const Options& options) {
    PatternReader ahead = reader_;
    const std::size_t number = *ahead.take_number();
    if (number <= 9 || number <= groups_) {
      reader_ = ahead;
      has_numbered_reference_ = true;
      return reference(number, options);
    }
    return character(reader_.take_character_escape(), options);
  }

  Pattern named_reference(const Options& options) {
    const bool quoted = reader_.peek() == '\'';
    if (!quoted && reader_.peek() != '<') return character('k', options);
    reader_.skip(1);
    const std::string_view name = reader_.take_until(quoted ? "'" : ">", "\\k");
    const auto found = std::find(names_.begin(), names_.end(), name);
    if (found == names_.end() || name.empty())
      reader_.unsupported(fmt::format("a reference to {}, no name before it", in_quotes(name)));
    return reference(static_cast<std::size_t>(found - names_.begin()) + 1, options);
  }

  /// After "(".
  Pattern group(Options options) {
    if (reader_.accept("?")) return special_group(options);
    if (reader_.peek() == '*') reader_.unsupported("(*, a callout");
    return capture("", options);
  }

  Pattern capture(std::string_view name, const Options& options) {
    const std::size_t number = ++groups_;
    names_.emplace_back(name);
    Pattern pattern = around(Kind::capture, closed(options));
    pattern.group = number;
    return pattern;
  }

  Pattern closed(const Options& options) {
    Pattern inner = alternatives(options);
    if (!reader_.accept(")")) reader_.malformed("a ( without )");
    return inner;
  }

  Pattern look(bool behind, bool negative, const Options& options) {
    Pattern pattern = around(Kind::look, closed(options));
    // Oniguruma matches these in ways of its own, which no document describes.
    if (behind && has_unusual_part(pattern.parts[0]))
      reader_.unsupported("a look-behind with \\K, \\R, a look-around or an atomic group in it");
    pattern.behind = behind;
    pattern.negative = negative;
    return pattern;
  }

  static bool has_unusual_part(const Pattern& pattern) {
    return pattern.kind == Kind::atomic || pattern.kind == Kind::look ||
           pattern.kind == Kind::keep ||
           (pattern.kind == Kind::repeat && pattern.greed == Greed::possessive) ||
           std::any_of(pattern.parts.begin(), pattern.parts.end(), has_unusual_part);
  }

  /// After "(?".
  Pattern special_group(const Options& options) {
    if (reader_.accept(":")) return closed(options);
    if (reader_.accept(">")) return around(Kind::atomic, closed(options));
    if (reader_.accept("=")) return look(false, false, options);
    if (reader_.accept("!")) return look(false, true, options);
    if (reader_.accept("<=")) return look(true, false, options);
    if (reader_.accept("<!")) return look(true, true, options);
    if (reader_.accept("~")) reader_.unsupported("(?~, the absent operator");
    if (reader_.accept("(")) reader_.unsupported("(?(, a condition");
    if (reader_.accept("{")) reader_.unsupported("(?{, a callout");
    const bool quoted = reader_.peek() == '\'';
    if (reader_.accept(quoted ? "'" : "<")) {
      const std::string_view name = reader_.take_until(quoted ? "'" : ">", "the name of a group");
      if (name.empty() || !is_word(first_character(name)) || (name[0] >= '0' && name[0] <= '9'))
        reader_.malformed(fmt::format("the name {} of a group", in_quotes(name)));
      if (std::find(names_.begin(), names_.end(), name) != names_.end())
        reader_.unsupported(fmt::format("two groups named {}", in_quotes(name)));
      return capture(name, options);
    }
    return with_options(options);
  }

  /// (?i-m:...), or (?i), which holds up to the end of the group around it, its alternatives
  /// included.
  Pattern with_options(Options options) {
    for (bool on = true;; reader_.skip(1)) {
      switch (reader_.peek()) {
        case '-': on = false; continue;
        case 'i': options.ignore_case = on; continue;
        case 'm': options.dot_all = on; continue;
        case 'x': options.extended = on; continue;
        default: break;
      }
      if (reader_.accept(":")) return closed(options);
      if (reader_.accept(")")) return alternatives(options);
      constexpr std::string_view others = "WDSPyILC";
      if (!reader_.at_end() && others.find(reader_.peek()) != std::string_view::npos)
        reader_.unsupported(fmt::format("the option {}", reader_.peek()));
      reader_.malformed("an unknown kind of group");
    }
  }

  Pattern quantified(Pattern part, const Options& options) {
    for (;;) {
      skip_comments(options);
      std::optional<Repeat> repeat = simple_repeat();
      if (!repeat) repeat = interval();
      if (!repeat) return part;
      part = repeated(std::move(part), repeat->min, repeat->max, repeat->greed);
      // A fixed number of times, but lazily: that many times or not at all.
      if (repeat->optional) part = repeated(std::move(part), 0, 1, Greed::greedy);
    }
  }

  struct Repeat {
    std::size_t min, max;
    Greed greed = Greed::greedy;
    bool optional = false;
  };

  std::optional<Repeat> simple_repeat() {
    Repeat repeat{};
    if (reader_.accept("*")) {
      repeat = {0, Pattern::unlimited};
    } else if (reader_.accept("+")) {
      repeat = {1, Pattern::unlimited};
    } else if (reader_.accept("?")) {
      repeat = {0, 1};
    } else {
      return std::nullopt;
    }
    if (reader_.accept("?")) {
      repeat.greed = Greed::lazy;
    } else if (reader_.accept("+")) {
      repeat.greed = Greed::possessive;
    }
    return repeat;
  }

  /// {n}, {n,}, {,m} or {n,m}; {m,n} with m > n is {n,m} that gives nothing back. Anything else
  /// that begins with a brace is characters.
  std::optional<Repeat> interval() {
    PatternReader ahead = reader_;
    if (!ahead.accept("{")) return std::nullopt;
    const std::optional<std::size_t> low = ahead.take_number();
    const bool comma = ahead.accept(",");
    const std::optional<std::size_t> high = comma ? ahead.take_number() : low;
    if (!ahead.accept("}") || (!low && !high)) return std::nullopt;
    reader_ = ahead;
    Repeat repeat{low.value_or(0), high.value_or(Pattern::unlimited)};
    if (repeat.min > max_repeats || (high && *high > max_repeats))
      reader_.malformed("too large a number of repeats");
    if (repeat.min > repeat.max) {
      std::swap(repeat.min, repeat.max);
      repeat.greed = Greed::possessive;
    } else if (reader_.accept("?")) {
      repeat.optional = repeat.min == repeat.max;
      repeat.greed = repeat.optional ? Greed::greedy : Greed::lazy;
    }
    return repeat;
  }

  void check_references() const {
    const bool named = std::any_of(names_.begin(), names_.end(),
                                   [](const std::string& name) { return !name.empty(); });
    if (last_reference_ > groups_) reader_.malformed("a reference to a group that is not there");
    if (named && has_numbered_reference_)
      reader_.malformed("a reference by number besides named groups");
  }

  PatternReader reader_;
  int depth_ = 0;
  std::size_t groups_ = 0, last_reference_ = 0;
  bool has_numbered_reference_ = false;
  std::vector<std::string> names_;  // of each group; empty if it has none
};

}  // namespace

Pattern parse_pattern(std::string_view text) { return Parser(text).whole(); }

Pattern literal_pattern(std::string_view text) {
  PatternReader reader(text);
  Pattern pattern;
  while (!reader.at_end()) {
    const std::int32_t code = reader.take_character();
    pattern.parts.push_back(set_of(CodeSet(code, code)));
  }
  return pattern;
}

}  // namespace attn::model
