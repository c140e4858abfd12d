#include "option_values.hpp"

#include <attn/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <vector>

namespace attn::apps {
namespace {

/// Nothing if the text holds anything but one value, or one that does not fit.
template <class Value>
std::optional<Value> whole_value(std::string_view text) {
  Value value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

template <class Value>
Value finite_value(std::string_view option, std::string_view text) {
  const auto value = whole_value<Value>(text);
  if (!value || !std::isfinite(*value)) reject_value(option, text, "a finite number");
  return *value;
}

}  // namespace

void reject_value(std::string_view option, std::string_view text, std::string_view needed) {
  throw Error(ErrorCode::invalid_argument,
              fmt::format("{} is \"{}\"; it needs {}", option, text, needed));
}

std::int64_t integer_value(std::string_view option, std::string_view text, std::int64_t least,
                           std::int64_t most) {
  const auto value = whole_value<std::int64_t>(text);
  if (!value) reject_value(option, text, "an integer");
  if (*value < least || *value > most) {
    const bool bounded = most != std::numeric_limits<std::int64_t>::max();
    reject_value(option, text,
                 bounded ? fmt::format("an integer in {}..{}", least, most)
                         : fmt::format("an integer of at least {}", least));
  }
  return *value;
}

double number_value(std::string_view option, std::string_view text) {
  return finite_value<double>(option, text);
}
float float_value(std::string_view option, std::string_view text) {
  return finite_value<float>(option, text);
}

Dims integers_value(std::string_view option, std::string_view text, std::string_view needed) {
  std::vector<std::int64_t> values;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t comma = std::min(text.find(',', begin), text.size());
    const auto value = whole_value<std::int64_t>(text.substr(begin, comma - begin));
    if (!value || values.size() == Dims::max_rank) reject_value(option, text, needed);
    values.push_back(*value);
    begin = comma + 1;
  }
  return {values.data(), static_cast<int>(values.size())};
}

}  // namespace attn::apps
