#include "model/regex.hpp"

#include <fmt/format.h>

#include <optional>
#include <utility>

#include "io/message.hpp"
#include "model/regex_matcher.hpp"
#include "model/regex_program.hpp"
#include "model/regex_syntax.hpp"
#include "model/unicode.hpp"
#include "model/unicode_properties.hpp"

namespace attn::model {
namespace {

/// The longest pattern in use has some 500 bytes.
constexpr std::size_t max_pattern_size = 16384;

}  // namespace

struct Regex::Code {
  std::string file, pattern;
  Program program;

  [[noreturn]] void fail(const std::string& what, ErrorCode code = ErrorCode::io) const {
    io::fail(file, fmt::format("its pattern {} {}", io::in_quotes(pattern), what), code);
  }
};

Regex::Regex(const std::string& file, std::string_view pattern, PatternKind kind) {
  auto code = std::make_shared<Code>();
  code->file = file;
  code->pattern = pattern;
  if (pattern.size() > max_pattern_size)
    code->fail(fmt::format("has {} bytes; at most {} are read", pattern.size(), max_pattern_size));
  try {
    code->program =
        compile(kind == PatternKind::literal ? literal_pattern(pattern) : parse_pattern(pattern));
  } catch (const PatternError& error) {
    code->fail(error.what(), error.code());
  }
  code_ = std::move(code);
}

Regex Regex::digits() { return one_of(numeric_characters()); }

Regex Regex::one_of(CodeSet set) {
  auto code = std::make_shared<Code>();
  code->program = compile({.kind = Pattern::Kind::set, .set = std::move(set)});
  Regex made;
  made.code_ = std::move(code);
  return made;
}

std::vector<Range> Regex::find_all(std::string_view text, MatchSteps& steps) const {
  steps.add_for(text.size());
  Matcher matcher(code_->program, text, steps);
  std::vector<Range> matches;
  std::size_t at = 0;
  try {
    while (at <= text.size()) {
      const std::optional<Range> match = matcher.search(at);
      if (!match) break;
      const std::size_t last_end = matches.empty() ? 0 : matches.back().end;
      // A pattern with \K can move the beginning of a match, even backward.
      if (match->begin < last_end || match->begin > match->end)
        code_->fail("moves the beginning of a match to where none can be");
      at = match->end;
      if (match->begin == match->end && !matches.empty() && last_end == match->end) {
        at += at < text.size() ? first_character(text.substr(at)).size : 1;
      } else {
        matches.push_back(*match);
      }
    }
  } catch (const TooManySteps&) {
    code_->fail(fmt::format("takes too many steps on a text of {} bytes", steps.text_size()));
  }
  return matches;
}

}  // namespace attn::model
