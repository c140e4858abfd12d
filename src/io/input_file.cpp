#include "io/input_file.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

namespace fs = std::filesystem;

namespace attn::io {

InputFile::InputFile(std::string name) : name_(std::move(name)) {
  std::error_code error;
  const fs::file_status status = fs::status(name_, error);
  if (status.type() == fs::file_type::not_found) fail("no such file");
  if (error) fail(fmt::format("cannot be read: {}", error.message()));
  if (fs::is_directory(status)) fail("is a directory, not a file");
  // Pipes and devices have no size to check a header against.
  if (!fs::is_regular_file(status)) fail("is not a regular file");
  handle_.reset(std::fopen(name_.c_str(), "rb"));
  if (!handle_) fail(fmt::format("cannot be read: {}", errno_message()));
  size_ = fs::file_size(name_, error);
  if (error) fail(fmt::format("cannot be read: {}", error.message()));
  if (size_ == 0) fail("is empty");
}

void InputFile::read(std::uint64_t offset, void* to, std::size_t count) const {
  if (count == 0) return;
  errno = 0;
  if (std::fseek(handle_.get(), static_cast<long>(offset), SEEK_SET) == 0 &&
      std::fread(to, 1, count, handle_.get()) == count)
    return;
  fail(fmt::format("cannot be read: {}", errno != 0 ? errno_message() : "it has become shorter"));
}

std::string InputFile::read_text(std::uint64_t offset, std::size_t count) const {
  std::string text(count, '\0');
  read(offset, text.data(), count);
  return text;
}

Tensor InputFile::read_tensor(std::uint64_t offset, DType dtype, const Dims& shape) const {
  Tensor tensor(dtype, shape);
  read(offset, tensor.data(), tensor.size_in_bytes());
  if (dtype == DType::boolean) {
    auto* const bytes = static_cast<unsigned char*>(tensor.data());
    std::transform(bytes, bytes + tensor.size(), bytes,
                   [](unsigned char byte) { return static_cast<unsigned char>(byte != 0); });
  }
  return tensor;
}

std::shared_ptr<const std::byte> InputFile::map() const {
  const std::size_t size = size_;
  void* const memory = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fileno(handle_.get()), 0);
  if (memory == MAP_FAILED) fail(fmt::format("cannot be mapped: {}", errno_message()));
  return {static_cast<const std::byte*>(memory),
          [memory, size](const std::byte*) { munmap(memory, size); }};
}

}  // namespace attn::io
