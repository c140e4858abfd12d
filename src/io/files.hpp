// Files as the formats see them: sized input, checked output, errors that name the file.
#pragma once

#include <attn/error.hpp>
#include <attn/tensor.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace attn::io {

static_assert(std::endian::native == std::endian::little,
              "both formats are read and written as they lie in memory: little endian");

/// Throws Error with one line: "FILE: what".
[[noreturn]] void fail(const std::string& file, const std::string& what,
                       ErrorCode code = ErrorCode::io);
/// Text from a file, fit for one line of a message: quoted, control characters escaped, cut when
/// long.
std::string in_quotes(std::string_view text);

struct Close {
  void operator()(std::FILE* file) const noexcept { std::fclose(file); }
};
using Handle = std::unique_ptr<std::FILE, Close>;

/// A regular file that is not empty.
class InputFile {
 public:
  explicit InputFile(std::string name);

  const std::string& name() const noexcept { return name_; }
  std::uint64_t size() const noexcept { return size_; }
  /// Bytes offset..offset+count-1, which lie inside size().
  void read(std::uint64_t offset, void* to, std::size_t count) const;
  /// The elements of a dense tensor, which lie inside size().
  Tensor read_tensor(std::uint64_t offset, DType dtype, const Dims& shape) const;
  /// All of its bytes, read only, as they lie in the file: pages are read as they are touched. Kept
  /// as long as someone holds it.
  std::shared_ptr<const std::byte> map() const;
  [[noreturn]] void fail(const std::string& what) const { io::fail(name_, what); }

 private:
  std::string name_;
  std::uint64_t size_;
  Handle handle_;
};

/// Overwrites an existing file. Until close() has returned it is not known to be written.
class OutputFile {
 public:
  /// `name` stands for the file in messages.
  OutputFile(const std::filesystem::path& path, std::string name);

  const std::string& name() const noexcept { return name_; }
  void write(const void* from, std::size_t count);
  /// All elements in row-major order.
  void write(const TensorView& tensor);
  void close();

 private:
  [[noreturn]] void fail_by_errno() const;

  std::string name_;
  Handle handle_;
};

}  // namespace attn::io
