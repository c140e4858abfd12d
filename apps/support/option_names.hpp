// Messages of the library, in which options have the names that the command line gives them.
#pragma once

#include <attn/error.hpp>

#include <span>
#include <string>
#include <string_view>

namespace attn::apps {

/// A parameter of the library and the option that sets it.
struct OptionName {
  std::string_view parameter, option;
};

/// The message with the option in the place of the parameter that it begins with. Parameters that
/// are no words of English, because they have an underscore, a dot or a single letter, are replaced
/// everywhere.
std::string with_option_names(std::string message, std::span<const OptionName> names);

/// Calls `run`. An Error that it throws has the names of the options.
template <class Run>
auto under_option_names(std::span<const OptionName> names, Run run) {
  try {
    return run();
  } catch (const Error& error) {
    throw Error(error.code(), with_option_names(error.what(), names));
  }
}

}  // namespace attn::apps
