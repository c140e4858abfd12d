// What reading and writing a file share.
#pragma once

#include <bit>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <string>
#include <system_error>

namespace attn::io {

static_assert(std::endian::native == std::endian::little,
              "files hold little-endian numbers, which are read and written without conversion");

struct CloseFile {
  void operator()(std::FILE* file) const noexcept { std::fclose(file); }
};
using FileHandle = std::unique_ptr<std::FILE, CloseFile>;

/// What the last failed system call reported.
inline std::string errno_message() { return std::generic_category().message(errno); }

}  // namespace attn::io
