// A file to read: its size is known, and errors name it.
#pragma once

#include <attn/tensor.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "io/file_handle.hpp"
#include "io/message.hpp"

namespace attn::io {

/// Where the elements of a tensor lie in a file.
struct StoredTensor {
  std::uint64_t offset = 0;
  DType dtype = DType::f32;
  Dims shape{};
  bool fortran_order = false;  // the first index runs fastest
};

class InputFile {
 public:
  /// Opens a regular file. Throws Error(io) if there is none, it cannot be read, or it is empty.
  explicit InputFile(std::string name);

  const std::string& name() const noexcept { return name_; }
  std::uint64_t size() const noexcept { return size_; }
  /// Reads bytes offset..offset+count-1, which have to lie inside size().
  void read(std::uint64_t offset, void* to, std::size_t count) const;
  /// The same, as text.
  std::string read_text(std::uint64_t offset, std::size_t count) const;
  /// Reads the elements of a dense tensor, which have to lie inside size(). A boolean becomes 1 for
  /// any byte but 0.
  Tensor read_tensor(std::uint64_t offset, DType dtype, const Dims& shape) const;
  /// Maps the whole file into memory, read only: a page is read when it is first touched. The
  /// mapping lasts as long as a copy of the pointer.
  std::shared_ptr<const std::byte> map() const;
  [[noreturn]] void fail(const std::string& what) const { io::fail(name_, what); }

 private:
  std::string name_;
  std::uint64_t size_;
  FileHandle handle_;
};

}  // namespace attn::io
