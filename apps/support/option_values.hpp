// Values on the command line, read strictly: what is not wholly a value of the kind asked for is an
// error.
#pragma once

#include <attn/tensor.hpp>

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

namespace attn::apps {

/// Throws Error(invalid_argument): "--scale is abc; it needs a finite number".
[[noreturn]] void reject_value(std::string_view option, std::string_view text,
                               std::string_view needed);

std::int64_t integer_value(std::string_view option, std::string_view text,
                           std::int64_t least = std::numeric_limits<std::int64_t>::min(),
                           std::int64_t most = std::numeric_limits<std::int64_t>::max());
/// Finite.
double number_value(std::string_view option, std::string_view text);
float float_value(std::string_view option, std::string_view text);
/// Integers with commas between them. `needed` is what the error says.
Dims integers_value(std::string_view option, std::string_view text, std::string_view needed);

/// One of the named choices.
template <class Value>
Value choice_value(std::string_view option, std::string_view text,
                   std::initializer_list<std::pair<std::string_view, Value>> choices) {
  std::string names;
  for (const auto& [name, value] : choices) {
    if (name == text) return value;
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  reject_value(option, text, "one of " + names);
}

}  // namespace attn::apps
