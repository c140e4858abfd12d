#include "model/unicode_properties.hpp"

#include <algorithm>
#include <cctype>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

namespace attn::model {
namespace {

struct ScriptName {
  std::string_view code, name;
};
/// `count` characters, `step` apart from each other, each of which has the same case folding as the
/// character `distance` after it.
struct CaseRun {
  std::int32_t first, count, step, distance;
};
/// A character whose case folding is longer than one character, and how the folding begins.
struct LongFold {
  std::int32_t code, first, second;
};

#include "model/unicode_tables.inc"

/// The code points whose value is wanted. A run is its length, shifted, and its value.
template <class Runs, class Wanted>
CodeSet of_runs(const Runs& runs, int shift, const Wanted& wanted) {
  std::vector<CodeRange> ranges;
  std::int32_t first = 0;
  for (const std::uint32_t run : runs) {
    const auto length = static_cast<std::int32_t>(run >> shift);
    if (wanted(run & ((1U << shift) - 1))) ranges.push_back({first, first + length - 1});
    first += length;
  }
  return CodeSet::union_of(std::move(ranges));
}

/// All general categories whose names begin with `begin`.
CodeSet category(std::string_view begin) {
  return of_runs(category_runs, 5,
                 [&](std::uint32_t value) { return category_names[value].starts_with(begin); });
}

/// Names as they are compared: small letters and digits alone.
std::string simplified(std::string_view name) {
  std::string simple;
  for (const char each : name) {
    if (each != ' ' && each != '-' && each != '_')
      simple += static_cast<char>(std::tolower(static_cast<unsigned char>(each)));
  }
  return simple;
}

CodeSet alphabetic() { return category("l") | category("nl") | CodeSet(other_alphabetic); }
CodeSet uppercase() { return category("lu") | CodeSet(other_uppercase); }
CodeSet lowercase() { return category("ll") | CodeSet(other_lowercase); }
CodeSet space() { return category("z") | CodeSet('\t', '\r') | CodeSet(0x85, 0x85); }
CodeSet graph() { return ~(space() | category("cc") | category("cn") | category("cs")); }

using Named = std::unordered_map<std::string_view, std::function<CodeSet()>>;

/// Properties that the general category alone does not give.
const Named& derived() {
  static const Named sets{
      {"alpha", alphabetic},
      {"alphabetic", alphabetic},
      {"upper", uppercase},
      {"uppercase", uppercase},
      {"lower", lowercase},
      {"lowercase", lowercase},
      {"alnum", [] { return alphabetic() | category("nd"); }},
      {"space", space},
      {"whitespace", space},
      {"blank", [] { return category("zs") | CodeSet('\t', '\t'); }},
      {"graph", graph},
      {"print", [] { return graph() | category("zs"); }},
      {"xdigit", [] { return CodeSet('0', '9') | CodeSet('A', 'F') | CodeSet('a', 'f'); }},
      {"word", word_characters},
      {"ascii", [] { return CodeSet(0, 0x7f); }},
      {"any", [] { return CodeSet(0, CodeSet::max_code); }},
      {"assigned", [] { return ~category("cn"); }},
      {"lc", [] { return category("lu") | category("ll") | category("lt"); }},
      {"emoji", [] { return CodeSet(emoji); }},
      {"emojipresentation", [] { return CodeSet(emoji_presentation); }},
      {"emojimodifier", [] { return CodeSet(emoji_modifier); }},
      {"emojimodifierbase", [] { return CodeSet(emoji_modifier_base); }},
      {"emojicomponent", [] { return CodeSet(emoji_component); }},
      {"extendedpictographic", [] { return CodeSet(extended_pictographic); }},
  };
  return sets;
}

/// The long names of general categories.
const std::unordered_map<std::string_view, std::string_view>& long_names() {
  static const std::unordered_map<std::string_view, std::string_view> names{
      {"other", "c"},
      {"control", "cc"},
      {"cntrl", "cc"},
      {"format", "cf"},
      {"unassigned", "cn"},
      {"privateuse", "co"},
      {"surrogate", "cs"},
      {"letter", "l"},
      {"lowercaseletter", "ll"},
      {"modifierletter", "lm"},
      {"otherletter", "lo"},
      {"titlecaseletter", "lt"},
      {"uppercaseletter", "lu"},
      {"mark", "m"},
      {"combiningmark", "m"},
      {"spacingmark", "mc"},
      {"enclosingmark", "me"},
      {"nonspacingmark", "mn"},
      {"number", "n"},
      {"decimalnumber", "nd"},
      {"digit", "nd"},
      {"letternumber", "nl"},
      {"othernumber", "no"},
      {"punctuation", "p"},
      {"punct", "p"},
      {"connectorpunctuation", "pc"},
      {"dashpunctuation", "pd"},
      {"closepunctuation", "pe"},
      {"finalpunctuation", "pf"},
      {"initialpunctuation", "pi"},
      {"otherpunctuation", "po"},
      {"openpunctuation", "ps"},
      {"symbol", "s"},
      {"currencysymbol", "sc"},
      {"modifiersymbol", "sk"},
      {"mathsymbol", "sm"},
      {"othersymbol", "so"},
      {"separator", "z"},
      {"lineseparator", "zl"},
      {"paragraphseparator", "zp"},
      {"spaceseparator", "zs"},
  };
  return names;
}

std::optional<CodeSet> script_named(std::string_view name) {
  const auto is_it = [&](const ScriptName& script) {
    return script.code == name || script.name == name;
  };
  const auto* const found = std::find_if(std::begin(script_names), std::end(script_names), is_it);
  if (found == std::end(script_names)) return std::nullopt;
  const auto number = static_cast<std::uint32_t>(found - std::begin(script_names));
  return of_runs(script_runs, 8, [&](std::uint32_t value) { return value == number; });
}

/// For each character that is not the least of its kind, the least one; and back.
struct Cases {
  std::unordered_map<std::int32_t, std::int32_t> least;
  std::unordered_multimap<std::int32_t, std::int32_t> others;

  Cases() {
    for (const CaseRun& run : case_runs) {
      for (std::int32_t n = 0; n < run.count; ++n) {
        const std::int32_t code = run.first + n * run.step;
        least.emplace(code, code + run.distance);
        others.emplace(code + run.distance, code);
      }
    }
  }
};

const Cases& cases() {
  static const Cases made;
  return made;
}

}  // namespace

std::optional<CodeSet> property_named(std::string_view name) {
  const std::string simple = simplified(name);
  if (const auto found = derived().find(simple); found != derived().end()) return found->second();
  const auto full = long_names().find(simple);
  const std::string_view code = full != long_names().end() ? full->second : simple;
  const bool is_category =
      !code.empty() && code.size() <= 2 &&
      std::any_of(std::begin(category_names), std::end(category_names),
                  [&](std::string_view each) { return each.starts_with(code); });
  if (is_category) return category(code);
  return script_named(simple);
}

std::optional<CodeSet> posix_bracket_named(std::string_view name) {
  constexpr std::string_view names[] = {"alnum", "alpha",  "blank", "cntrl", "digit",
                                        "graph", "lower",  "print", "punct", "space",
                                        "upper", "xdigit", "ascii", "word"};
  if (std::find(std::begin(names), std::end(names), name) == std::end(names)) return std::nullopt;
  if (name == "punct") return category("p") | category("s");
  return property_named(name);
}

const CodeSet& word_characters() {
  static const CodeSet set = alphabetic() | category("m") | category("nd") | category("pc");
  return set;
}

const CodeSet& word_characters_alone() {
  static const CodeSet set = word_characters() | CodeSet(other_word);
  return set;
}

bool is_space(const Character& character) {
  static const CodeSet set = space();
  return character.size > 0 && set.contains(character.code);
}

bool is_word(const Character& character) {
  static const CodeSet set = word_characters() | CodeSet(0x200c, 0x200d);
  return character.size > 0 && set.contains(character.code);
}

CodeSet numeric_characters() { return category("n") | CodeSet(other_numeric); }

CodeSet later_than_unicode_9() { return category("cn") | CodeSet(later_than_9); }

CodeSet with_other_cases(const CodeSet& set) {
  std::vector<CodeRange> ranges = set.ranges();
  const auto add_all_of = [&](std::int32_t least) {
    ranges.push_back({least, least});
    const auto [begin, end] = cases().others.equal_range(least);
    for (auto other = begin; other != end; ++other)
      ranges.push_back({other->second, other->second});
  };
  for (const auto& [code, least] : cases().least) {
    if (set.contains(code) || set.contains(least)) add_all_of(least);
  }
  return CodeSet::union_of(std::move(ranges));
}

std::int32_t folded(std::int32_t code) {
  const auto found = cases().least.find(code);
  return found == cases().least.end() ? code : found->second;
}

std::optional<std::int32_t> long_fold_in(const CodeSet& set) {
  for (const LongFold& each : long_folds) {
    if (set.contains(each.code)) return each.code;
  }
  return std::nullopt;
}

std::optional<std::int32_t> long_fold_of(std::int32_t first, std::int32_t second) {
  for (const LongFold& each : long_folds) {
    if (each.first == folded(first) && each.second == folded(second)) return each.code;
  }
  return std::nullopt;
}

}  // namespace attn::model
