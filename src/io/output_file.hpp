// A file to write: every step is checked, and errors name it.
#pragma once

#include <attn/tensor.hpp>

#include <cstddef>
#include <filesystem>
#include <string>

#include "io/file_handle.hpp"

namespace attn::io {

class OutputFile {
 public:
  /// Overwrites `path`. Messages call the file `name`, which may be another: the place to which it
  /// will be renamed.
  OutputFile(const std::filesystem::path& path, std::string name);

  const std::string& name() const noexcept { return name_; }
  void write(const void* from, std::size_t count);
  /// Writes all elements in row-major order, booleans as 0 and 1.
  void write(const TensorView& tensor);
  /// The file is known to be complete only when close() has returned.
  void close();

 private:
  [[noreturn]] void fail_by_errno() const;

  std::string name_;
  FileHandle handle_;
};

}  // namespace attn::io
