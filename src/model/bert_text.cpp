#include "model/bert_text.hpp"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <span>

#include "model/regex_program.hpp"
#include "model/unicode.hpp"

namespace attn::model {
namespace {

/// `count` characters, `step` apart from each other, with a lower case at this distance.
struct LowerRun {
  std::int32_t first, count, step, distance;
};

#include "model/bert_tables.inc"

SetTable table_of(std::span<const CodeRange> ranges) { return SetTable(CodeSet(ranges)); }

std::int32_t lower_of(std::int32_t code) {
  const auto* const after =
      std::upper_bound(std::begin(lower_runs), std::end(lower_runs), code,
                       [](std::int32_t each, const LowerRun& run) { return each < run.first; });
  // Runs of every second character may overlap, so that the one before may hold the character, too.
  for (const auto* run = after; run != std::begin(lower_runs) && after - run < 2;) {
    --run;
    const std::int32_t offset = code - run->first;
    if (offset % run->step == 0 && offset / run->step < run->count) return code + run->distance;
  }
  return code;
}

/// Replaces each character of a text: append(code, bytes, result) adds what takes its place.
template <class Append>
std::string map_characters(std::string_view text, Append&& append) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const Character character = first_character(text);
    append(character.code, text.substr(0, character.size), result);
    text.remove_prefix(character.size);
  }
  return result;
}

std::string cleaned(std::string_view text) {
  static const SetTable dropped = table_of(removed), blank = table_of(spaces);
  return map_characters(text, [](std::int32_t code, std::string_view bytes, std::string& result) {
    if (dropped.contains(code)) return;
    if (blank.contains(code)) {
      result += ' ';
    } else {
      result += bytes;
    }
  });
}

std::string with_spaces_around_chinese(std::string_view text) {
  static const SetTable set = table_of(chinese);
  return map_characters(text, [](std::int32_t code, std::string_view bytes, std::string& result) {
    const bool is_chinese = code >= 0x80 && set.contains(code);
    if (is_chinese) result += ' ';
    result += bytes;
    if (is_chinese) result += ' ';
  });
}

std::string without_accents(std::string_view text) {
  static const SetTable set = table_of(accents);
  return map_characters(to_nfd(text),
                        [](std::int32_t code, std::string_view bytes, std::string& result) {
                          if (code < 0x80 || !set.contains(code)) result += bytes;
                        });
}

}  // namespace

std::string BertNormalizer::operator()(std::string_view text) const {
  std::string result(text);
  if (clean_text) result = cleaned(result);
  if (handle_chinese_chars) result = with_spaces_around_chinese(result);
  if (strip_accents) result = without_accents(result);
  return lowercase ? to_lower(result) : result;
}

std::string to_lower(std::string_view text) {
  constexpr std::int32_t dotted_capital_i = 0x130;
  return map_characters(text, [](std::int32_t code, std::string_view bytes, std::string& result) {
    if (code == dotted_capital_i) {
      result += "i\u0307";
      return;
    }
    const std::int32_t lower = lower_of(code);
    if (lower == code) {
      result += bytes;
    } else {
      append_character(lower, result);
    }
  });
}

CodeSet bert_separators() { return CodeSet(separators); }
CodeSet bert_punctuation() { return CodeSet(punctuation); }

}  // namespace attn::model
