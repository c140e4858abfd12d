#include "option_names.hpp"

#include <cctype>

namespace attn::apps {
namespace {

bool in_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-';
}

/// Whether the name stands there and is not a part of a longer one.
bool stands_at(std::string_view message, std::size_t place, std::string_view name) {
  const std::size_t end = place + name.size();
  return message.substr(place, name.size()) == name &&
         (place == 0 || (!in_name(message[place - 1]) && message[place - 1] != '.')) &&
         (end >= message.size() || !in_name(message[end]));
}

bool is_english(std::string_view name) {
  return name.size() > 1 && name.find_first_of("_.") == std::string_view::npos;
}

}  // namespace

std::string with_option_names(std::string message, std::span<const OptionName> names) {
  for (const auto& [parameter, option] : names) {
    std::size_t place = 0;
    do {
      if (stands_at(message, place, parameter)) message.replace(place, parameter.size(), option);
      place = message.find(parameter, place + 1);
    } while (place != std::string::npos && !is_english(parameter));
  }
  return message;
}

}  // namespace attn::apps
