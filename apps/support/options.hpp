// Typed options of the command line. They are read strictly: text after a valid value is an error.
#pragma once

#include <attn/error.hpp>
#include <attn/execution.hpp>
#include <attn/tensor.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "command_line.hpp"

namespace attn::apps {

/// Throws Error(invalid_argument) with a formatted message.
template <class... Arguments>
[[noreturn]] void reject(fmt::format_string<Arguments...> message, Arguments&&... arguments) {
  throw Error(ErrorCode::invalid_argument,
              fmt::format(message, std::forward<Arguments>(arguments)...));
}

/// Throws Error(invalid_argument): `--scale is "abc"; it needs a finite number`, or `--scale is
/// empty; ...`.
[[noreturn]] void reject_value(std::string_view option, std::string_view text,
                               std::string_view needed);

/// The parts of a text between separators. There is one more than there are separators.
std::vector<std::string_view> split(std::string_view text, char separator);

struct IntegerRange {
  std::int64_t min = std::numeric_limits<std::int64_t>::min();
  std::int64_t max = std::numeric_limits<std::int64_t>::max();
};
std::int64_t integer_value(std::string_view option, std::string_view text, IntegerRange range = {});
/// Any number of 64 bits.
std::uint64_t seed_value(std::string_view option, std::string_view text);
/// Integers with commas between them. `needed` is what the error says.
std::vector<std::int64_t> integers_value(std::string_view option, std::string_view text,
                                         std::string_view needed);

/// A condition on a finite number, and the text of the error if it does not hold.
struct NumberCheck {
  bool (*accepts)(double);
  const char* needed;
};
inline constexpr NumberCheck any_number{[](double) { return true; }, "a finite number"};
inline constexpr NumberCheck positive{[](double x) { return x > 0; }, "a number above 0"};
inline constexpr NumberCheck not_negative{[](double x) { return x >= 0; },
                                          "a number of at least 0"};
inline constexpr NumberCheck at_least_1{[](double x) { return x >= 1; }, "a number of at least 1"};
inline constexpr NumberCheck fraction{[](double x) { return x >= 0 && x <= 1; },
                                      "a number in 0..1"};
/// Value is float or double. A number that it cannot hold is refused, whether it is too large or
/// too small.
template <class Value>
Value number_value(std::string_view option, std::string_view text, NumberCheck check = any_number);

template <class Value>
using Choices = std::vector<std::pair<std::string_view, Value>>;

template <class Value>
Value choice_value(std::string_view option, std::string_view text, const Choices<Value>& choices) {
  std::string names;
  for (const auto& [name, value] : choices) {
    if (name == text) return value;
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  reject_value(option, text, "one of " + names);
}

/// Adds an option that is given as "--name TYPE". Its name and text go to `read`.
template <class Read>
CLI::Option* add_value(CLI::App& command, const std::string& spec, const std::string& description,
                       Read read) {
  const std::size_t space = spec.find(' ');
  const std::string name = spec.substr(0, space);
  const auto callback = [name, read](const std::string& text) {
    read(name, std::string(unmarked(text)));
  };
  return command.add_option_function<std::string>(name, callback, description)
      ->type_name(spec.substr(space + 1));
}

template <class Target>
struct ValueOf {
  using type = Target;
};
template <class Value>
struct ValueOf<std::optional<Value>> {
  using type = Value;
};

// Options whose value goes to a variable, or to an optional one that is empty where the option is
// not given.

/// Adds an option that takes a text. An empty text is a value too.
template <class Target>
CLI::Option* add_text(CLI::App& command, const std::string& spec, Target& target,
                      const std::string& description) {
  return add_value(command, spec, description, [&target](auto, auto text) { target = text; });
}

/// Adds an option that takes one text or several, and may be given several times. Its name and each
/// text go to `read`, in their order.
using ReadText = std::function<void(const std::string& option, const std::string& text)>;
CLI::Option* add_each_text(CLI::App& command, const std::string& spec, const ReadText& read,
                           const std::string& description);
/// The same, into a list. Text that is not UTF-8 is refused.
CLI::Option* add_texts(CLI::App& command, const std::string& spec, std::vector<std::string>& target,
                       const std::string& description);

/// Adds an option that takes the name of a file or folder.
template <class Target>
CLI::Option* add_file(CLI::App& command, const std::string& spec, Target& target,
                      const std::string& description) {
  return add_value(command, spec, description, [&target](auto option, auto text) {
    if (text.empty()) reject_value(option, text, "a name");
    target = text;
  });
}

template <class Target>
CLI::Option* add_integer(CLI::App& command, const std::string& spec, Target& target,
                         IntegerRange range, const std::string& description) {
  return add_value(command, spec, description, [&target, range](auto option, auto text) {
    target = static_cast<typename ValueOf<Target>::type>(integer_value(option, text, range));
  });
}

template <class Target>
CLI::Option* add_number(CLI::App& command, const std::string& spec, Target& target,
                        NumberCheck check, const std::string& description) {
  return add_value(command, spec, description, [&target, check](auto option, auto text) {
    target = number_value<typename ValueOf<Target>::type>(option, text, check);
  });
}

template <class Target>
CLI::Option* add_choice(CLI::App& command, const std::string& spec, Target& target,
                        const Choices<typename ValueOf<Target>::type>& choices,
                        const std::string& description) {
  return add_value(command, spec, description, [&target, choices](auto option, auto text) {
    target = choice_value(option, text, choices);
  });
}

/// Adds --seed.
CLI::Option* add_seed(CLI::App& command, std::uint64_t& seed, const std::string& description);

/// Adds --threads and --isa.
void add_execution_options(CLI::App& command, Execution& execution);

/// Puts the options that have been added since the last call under a heading of the help text.
void set_help_group(CLI::App& command, const std::string& heading);

}  // namespace attn::apps
