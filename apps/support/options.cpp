#include "options.hpp"

#include <attn/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace attn::apps {
namespace {

/// Empty if the text is not exactly one value, or if the value does not fit into the type.
template <class Value>
std::optional<Value> whole_value(std::string_view text) {
  Value value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

Isa isa_value(const std::string& text) {
  const Isa isa = isa_from_name(text);
  const std::vector<Isa> available = available_isas();
  if (std::find(available.begin(), available.end(), isa) == available.end()) {
    throw Error(ErrorCode::unsupported,
                "--isa " + text +
                    ": this build or processor cannot run it; attn_demo info lists what it can");
  }
  return isa;
}

}  // namespace

void reject_value(std::string_view option, std::string_view text, std::string_view needed) {
  reject("{} is \"{}\"; it needs {}", option, text, needed);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

std::int64_t integer_value(std::string_view option, std::string_view text, IntegerRange range) {
  const auto value = whole_value<std::int64_t>(text);
  if (!value) reject_value(option, text, "an integer");
  if (*value < range.min || *value > range.max) {
    reject_value(option, text,
                 range.max != IntegerRange().max
                     ? fmt::format("an integer in {}..{}", range.min, range.max)
                     : fmt::format("an integer of at least {}", range.min));
  }
  return *value;
}

std::vector<std::int64_t> integers_value(std::string_view option, std::string_view text,
                                         std::string_view needed) {
  std::vector<std::int64_t> values;
  for (const std::string_view part : split(text, ',')) {
    const auto value = whole_value<std::int64_t>(part);
    if (!value) reject_value(option, text, needed);
    values.push_back(*value);
  }
  return values;
}

template <class Value>
Value number_value(std::string_view option, std::string_view text, NumberCheck check) {
  const auto value = whole_value<Value>(text);
  if (!value || !std::isfinite(*value)) reject_value(option, text, any_number.needed);
  if (!check.accepts(static_cast<double>(*value))) reject_value(option, text, check.needed);
  return *value;
}
template float number_value(std::string_view, std::string_view, NumberCheck);
template double number_value(std::string_view, std::string_view, NumberCheck);

void add_execution_options(CLI::App& command, Execution& execution) {
  add_integer(command, "--threads N", execution.num_threads, {1, max_num_threads},
              "number of threads; default: OpenMP's");
  add_value(command, "--isa NAME", "which kernels run; attn_demo info lists them",
            [&execution](auto, auto text) { execution.isa = isa_value(text); });
}

void set_help_group(CLI::App& command, const std::string& heading) {
  for (CLI::Option* const option : command.get_options()) {
    const bool grouped = option->get_group() != "Options" || option == command.get_help_ptr();
    if (!grouped) option->group(heading);
  }
}

}  // namespace attn::apps
