// Properties of characters by the names that patterns have for them, as of Unicode 16.0.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "model/code_set.hpp"
#include "model/unicode.hpp"

namespace attn::model {

/// The characters of \p{name}: general categories ("L", "Lu"), scripts ("Han", "Hani"), the names
/// of POSIX brackets, Alphabetic, Uppercase, Lowercase, White_Space, Any, Assigned, LC, and the
/// properties of emoji. The case of letters, spaces, "-" and "_" in the name do not count. Nothing
/// if the name is none of these.
std::optional<CodeSet> property_named(std::string_view name);
/// The characters of [:name:].
std::optional<CodeSet> posix_bracket_named(std::string_view name);

/// Letters, marks, digits and connectors: \w inside of brackets.
const CodeSet& word_characters();
/// The same and six numbers of Latin-1, such as U+00B2: \w alone, and the characters of which \b
/// knows words.
const CodeSet& word_characters_alone();
/// Whether the character has Unicode's property White_Space.
bool is_space(const Character& character);
/// Whether the character is a part of a word for added tokens with `single_word`: one of
/// word_characters(), or a joiner.
bool is_word(const Character& character);
/// What pre_tokenizers.Digits takes for digits: all numbers, of a later version of Unicode.
CodeSet numeric_characters();
/// The characters that Unicode 9.0 does not have.
CodeSet later_than_unicode_9();

/// The characters that (?i) makes equal to one of the set, and the set itself. Characters that are
/// equal to several others, such as U+00DF to "ss", are not considered.
CodeSet with_other_cases(const CodeSet& set);
/// The least of the characters that (?i) makes equal to a character.
std::int32_t folded(std::int32_t code);
/// The first character of which (?i) makes a character equal to several others, or nothing.
std::optional<std::int32_t> long_fold_in(const CodeSet& set);
/// A character that (?i) makes equal to several, of which these are the first two.
std::optional<std::int32_t> long_fold_of(std::int32_t first, std::int32_t second);

}  // namespace attn::model
