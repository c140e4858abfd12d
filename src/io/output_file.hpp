// A file to write: every step is checked, and errors name it.
#pragma once

#include <attn/tensor.hpp>

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>

#include "io/file_handle.hpp"
#include "io/temporary_name.hpp"

namespace attn::io {

/// Whether a path leads to something that is written as it is: a FIFO, a device, or a descriptor of
/// this process such as /dev/stdout. Everything else is a regular file, or will be one.
bool is_special(const std::filesystem::path& path);

/// Absolute and with links followed, so that two spellings of one place are equal. Throws
/// Error(io).
std::filesystem::path place_of(const std::filesystem::path& path);

/// A regular file is written under a temporary name and then renamed to its place. Links are
/// followed: what they lead to is written, also if it does not exist yet.
class OutputFile {
 public:
  /// Checks that the file can be written, and changes nothing. Messages call it `path`.
  explicit OutputFile(const std::filesystem::path& path);

  const std::string& name() const noexcept { return name_; }
  /// place_of() the path
  const std::filesystem::path& target() const noexcept { return target_; }

  /// Begins to write. Whatever was written before is lost, except to what is special.
  void open();
  void write(const void* from, std::size_t count);
  /// Writes all elements in row-major order, booleans as 0 and 1.
  void write(const TensorView& tensor);
  /// The file is known to be complete only when close() has returned.
  void close();
  bool complete() const noexcept { return complete_; }

  /// Puts the file into its place. With `undoable`, what it replaces is kept until this object
  /// ends, where the file system has hard links.
  void commit(bool undoable);
  /// After commit(true), puts back what was replaced, or removes the file where there was nothing.
  void undo() noexcept;

 private:
  [[noreturn]] void fail_by_errno() const;
  void check() const;
  int open_special() const;
  int open_temporary();

  std::string name_;
  std::filesystem::path target_;
  bool special_;
  bool complete_ = false;
  std::optional<TemporaryName> temporary_, replaced_;
  FileHandle handle_;  // is closed before the name is removed
};

}  // namespace attn::io
