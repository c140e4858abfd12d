#include "options.hpp"

#include <attn/error.hpp>
#include <attn/info.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <type_traits>

#include "apps/support/utf8.hpp"

namespace attn::apps {
namespace {

/// What the whole of a text says.
template <class Value>
struct Parsed {
  std::optional<Value> value{};  // empty if it is no number, or none that fits into the type
  bool out_of_range = false;     // a number that does not fit
};

template <class Value>
Parsed<Value> parsed(std::string_view text) {
  // from_chars knows no plus sign.
  if (text.starts_with('+') && text.size() > 1 && text[1] != '-') text.remove_prefix(1);
  Value value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (stop != end || error == std::errc::invalid_argument) return {};
  if (error == std::errc::result_out_of_range) return {.out_of_range = true};
  return {.value = value};
}

[[noreturn]] void reject_integer(std::string_view option, std::string_view text,
                                 const IntegerRange& range) {
  reject_value(option, text, fmt::format("an integer in {}..{}", range.min, range.max));
}

template <class Value>
[[noreturn]] void reject_magnitude(std::string_view option, std::string_view text,
                                   const char* needed) {
  using Limits = std::numeric_limits<Value>;
  const bool large = std::abs(std::strtod(std::string(text).c_str(), nullptr)) > 1;
  reject("{} is \"{}\", which is too {} for a {} ({:.2g} to {:.2g}); it needs {}", option, text,
         large ? "large" : "small", std::is_same_v<Value, float> ? "float" : "double",
         Limits::denorm_min(), Limits::max(), needed);
}

std::string names_of(const std::vector<Isa>& isas) {
  std::string names;
  for (const Isa isa : isas) names += (names.empty() ? "" : ", ") + std::string(name_of(isa));
  return names;
}

Isa isa_value(const std::string& option, const std::string& text) {
  const std::vector<Isa> built = build_info().isas, available = available_isas();
  const auto of_this_name = [&](Isa isa) { return name_of(isa) == text; };
  const auto found = std::find_if(available.begin(), available.end(), of_this_name);
  if (found != available.end()) return *found;
  if (std::any_of(built.begin(), built.end(), of_this_name)) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{} is \"{}\", which this processor cannot run; it needs one of {}",
                            option, text, names_of(available)));
  }
  reject_value(option, text, fmt::format("one of {}", names_of(available)));
}

}  // namespace

void reject_value(std::string_view option, std::string_view text, std::string_view needed) {
  if (text.empty()) reject("{} is empty; it needs {}", option, needed);
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
  const auto value = parsed<std::int64_t>(text).value;
  if (!value || *value < range.min || *value > range.max) reject_integer(option, text, range);
  return *value;
}

std::uint64_t seed_value(std::string_view option, std::string_view text) {
  const auto value = parsed<std::uint64_t>(text).value;
  if (!value) {
    reject_value(option, text,
                 fmt::format("an integer in 0..{}", std::numeric_limits<std::uint64_t>::max()));
  }
  return *value;
}

std::vector<std::int64_t> integers_value(std::string_view option, std::string_view text,
                                         std::string_view needed) {
  std::vector<std::int64_t> values;
  for (const std::string_view part : split(text, ',')) {
    const auto value = parsed<std::int64_t>(part).value;
    if (!value) reject_value(option, text, needed);
    values.push_back(*value);
  }
  return values;
}

template <class Value>
Value number_value(std::string_view option, std::string_view text, NumberCheck check) {
  const auto [value, out_of_range] = parsed<Value>(text);
  if (out_of_range) reject_magnitude<Value>(option, text, check.needed);
  if (!value || !std::isfinite(*value)) reject_value(option, text, any_number.needed);
  if (!check.accepts(static_cast<double>(*value))) reject_value(option, text, check.needed);
  return *value;
}
template float number_value(std::string_view, std::string_view, NumberCheck);
template double number_value(std::string_view, std::string_view, NumberCheck);

CLI::Option* add_seed(CLI::App& command, std::uint64_t& seed, const std::string& description) {
  return add_value(command, "--seed N", description,
                   [&seed](auto option, auto text) { seed = seed_value(option, text); });
}

void add_execution_options(CLI::App& command, Execution& execution) {
  add_integer(command, "--threads N", execution.num_threads, {1, max_num_threads},
              "number of threads; default: OMP_NUM_THREADS, else the processors");
  add_value(command, "--isa NAME", "which kernels run; attn_demo info lists them",
            [&execution](auto option, auto text) { execution.isa = isa_value(option, text); });
}

void set_help_group(CLI::App& command, const std::string& heading) {
  for (CLI::Option* const option : command.get_options()) {
    const bool grouped = option->get_group() != "Options" || option == command.get_help_ptr();
    if (!grouped) option->group(heading);
  }
}

CLI::Option* add_each_text(CLI::App& command, const std::string& spec, const ReadText& read,
                           const std::string& description) {
  const std::size_t space = spec.find(' ');
  const std::string name = spec.substr(0, space);
  const auto callback = [name, read](const std::vector<std::string>& texts) {
    for (const std::string& text : texts) read(name, std::string(unmarked(text)));
  };
  return command.add_option_function<std::vector<std::string>>(name, callback, description)
      ->type_name(spec.substr(space + 1))
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

CLI::Option* add_texts(CLI::App& command, const std::string& spec, std::vector<std::string>& target,
                       const std::string& description) {
  return add_each_text(
      command, spec,
      [&target](const std::string& option, const std::string& text) {
        if (const std::size_t size = utf8_size(text); size < text.size()) {
          reject("{} {} has bytes that are not UTF-8, from byte {} on; it needs UTF-8", option,
                 target.size(), size);
        }
        target.push_back(text);
      },
      description);
}

}  // namespace attn::apps
