#include "model/regex.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <new>

#include "io/message.hpp"
#include "model/unicode.hpp"

namespace attn::model {
namespace {

/// The longest pattern in use has some 500 bytes.
constexpr std::size_t max_pattern_size = 16384;
/// A step is a position to which the engine may backtrack. A run of one kind of character takes one
/// or two for each byte. A pattern whose backtracking multiplies exceeds the limit soon.
constexpr std::uint64_t min_steps = 10'000, steps_per_byte = 16;
constexpr std::uint32_t max_heap_kibibytes = 65536;

template <auto free>
struct Free {
  template <class T>
  void operator()(T* pointer) const noexcept {
    free(pointer);
  }
};
using CodePointer = std::unique_ptr<pcre2_code, Free<pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>>;

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 256> message{};
  pcre2_get_error_message(error, message.data(), message.size());
  return reinterpret_cast<const char*>(message.data());
}

PCRE2_SPTR units_of(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

MatchContext limited_context(std::size_t text_size) {
  MatchContext context(pcre2_match_context_create(nullptr));
  if (!context) throw std::bad_alloc();
  const std::uint64_t steps = min_steps + steps_per_byte * text_size;
  const auto limit = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(steps, std::numeric_limits<std::uint32_t>::max()));
  pcre2_set_match_limit(context.get(), limit);
  pcre2_set_depth_limit(context.get(), limit);
  pcre2_set_heap_limit(context.get(), max_heap_kibibytes);
  return context;
}

}  // namespace

struct Regex::Code {
  std::string file, pattern;
  CodePointer compiled;

  [[noreturn]] void fail(const std::string& what) const {
    io::fail(file, fmt::format("its pattern {} {}", io::in_quotes(pattern), what));
  }
};

Regex::Regex(const std::string& file, std::string_view pattern, PatternKind kind) {
  auto code = std::make_shared<Code>();
  code->file = file;
  code->pattern = pattern;
  if (pattern.size() > max_pattern_size)
    code->fail(fmt::format("has {} bytes; at most {} are read", pattern.size(), max_pattern_size));
  int error = 0;
  PCRE2_SIZE place = 0;
  // A match is tried at one position at a time, so that the limit of steps holds for each of them.
  const std::uint32_t options =
      PCRE2_UTF | PCRE2_ANCHORED |
      (kind == PatternKind::literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C);
  code->compiled.reset(
      pcre2_compile(units_of(pattern), pattern.size(), options, &error, &place, nullptr));
  if (!code->compiled)
    code->fail(
        fmt::format("is no regular expression: {} at its byte {}", message_of(error), place));
  pcre2_jit_compile(code->compiled.get(),
                    PCRE2_JIT_COMPLETE);  // if this fails, the pattern is interpreted
  code_ = std::move(code);
}

std::vector<Range> Regex::find_all(std::string_view text) const {
  const MatchContext context = limited_context(text.size());
  const MatchData data(pcre2_match_data_create(1, nullptr));
  if (!data) throw std::bad_alloc();
  const auto match = [&](std::size_t at, std::uint32_t options) {
    return pcre2_match(code_->compiled.get(), units_of(text), text.size(), at,
                       PCRE2_NO_UTF_CHECK | options, data.get(), context.get());
  };
  const PCRE2_SIZE* const found = pcre2_get_ovector_pointer(data.get());

  std::vector<Range> matches;
  std::size_t at = 0;
  while (at < text.size()) {
    int result = match(at, 0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(at, PCRE2_NO_JIT);
    if (result == PCRE2_ERROR_MATCHLIMIT || result == PCRE2_ERROR_DEPTHLIMIT ||
        result == PCRE2_ERROR_HEAPLIMIT) {
      code_->fail(fmt::format("takes too many steps on a text of {} bytes", text.size()));
    }
    if (result < 0 && result != PCRE2_ERROR_NOMATCH)
      code_->fail(fmt::format("cannot be matched: {}", message_of(result)));
    const Range range = result < 0 ? Range{at, at} : Range{found[0], found[1]};
    // A pattern with \K can move the beginning of a match, even backward.
    if (range.begin < at || range.begin > range.end)
      code_->fail("moves the beginning of a match to where none can be");
    const bool follows = !matches.empty() && matches.back().end == range.end;
    if (range.end > at || (result >= 0 && !follows)) matches.push_back(range);
    at = range.end > at ? range.end : at + first_character(text.substr(at)).size;
  }
  return matches;
}

}  // namespace attn::model
