// Error messages about files: each is one line that names the file.
#pragma once

#include <attn/error.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace attn::io {

/// Throws Error with the line "FILE: what".
[[noreturn]] void fail(const std::string& file, const std::string& what,
                       ErrorCode code = ErrorCode::io);
/// Text that comes from a file, made fit for a message: it is quoted, control characters are
/// escaped, and it is cut after 100 bytes.
std::string in_quotes(std::string_view text);
/// The first names in quotes, and how many more there are.
std::string list_names(std::span<const std::string> names, std::size_t max_listed = 20);

/// The names of the element types in a table of a format.
template <class Types>
std::string list_types(const Types& types) {
  std::string list;
  for (const auto& [name, dtype] : types) list += (list.empty() ? "" : ", ") + std::string(name);
  return list;
}

}  // namespace attn::io
