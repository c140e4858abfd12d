#include "io/output_file.hpp"

#include <fmt/format.h>

#include <utility>

#include "io/message.hpp"

namespace attn::io {

OutputFile::OutputFile(const std::filesystem::path& path, std::string name)
    : name_(std::move(name)), handle_(std::fopen(path.c_str(), "wb")) {
  if (!handle_) fail_by_errno();
}

void OutputFile::fail_by_errno() const {
  fail(name_, fmt::format("cannot be written: {}", errno_message()));
}

void OutputFile::write(const void* from, std::size_t count) {
  if (std::fwrite(from, 1, count, handle_.get()) != count) fail_by_errno();
}

void OutputFile::write(const TensorView& tensor) {
  if (tensor.size() == 0) return;
  // Booleans are always copied: in memory any byte but 0 is true, in a file only 1 is.
  if (tensor.data != nullptr && tensor.dtype != DType::boolean &&
      tensor.strides == dense_strides(tensor.shape)) {
    return write(tensor.data, static_cast<std::size_t>(tensor.size()) * size_of(tensor.dtype));
  }
  const Tensor dense = copy_as(tensor, tensor.dtype);
  write(dense.data(), dense.size_in_bytes());
}

void OutputFile::close() {
  if (std::fclose(handle_.release()) != 0) fail_by_errno();
}

}  // namespace attn::io
