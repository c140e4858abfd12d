#include "io/files.hpp"

#include <attn/error.hpp>
#include <attn/io.hpp>

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <system_error>
#include <utility>

#include "io/npy.hpp"
#include "io/safetensors.hpp"

namespace fs = std::filesystem;

namespace attn::io {
namespace {

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      result += fmt::format("\\x{:02x}", byte);
    else
      result += c;
  }
  return result;
}

std::string errno_message() { return std::generic_category().message(errno); }

}  // namespace

void fail(const std::string& file, const std::string& what, ErrorCode code) {
  throw Error(code, fmt::format("{}: {}", escaped(file), what));
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t max_size = 100;
  if (text.size() <= max_size) return fmt::format("'{}'", escaped(text));
  std::size_t cut = max_size;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xc0) == 0x80)
    --cut;  // not inside a UTF-8 character
  return fmt::format("'{}...'", escaped(text.substr(0, cut)));
}

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

OutputFile::OutputFile(const fs::path& path, std::string name)
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
  // Booleans are copied too: in memory any byte but 0 is true, in a file 1 alone.
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

namespace attn {
namespace {

constexpr std::string_view npy_suffix = ".npy";
constexpr std::string_view safetensors_suffix = ".safetensors";

/// Where the file will stand, links followed: the same for all spellings of one place.
fs::path target_of(const fs::path& file) {
  const std::string name = file.string();
  if (!name.ends_with(npy_suffix) && !name.ends_with(safetensors_suffix))
    io::fail(name, "an output's name ends in .npy or .safetensors");
  std::error_code error;
  fs::path target = fs::weakly_canonical(fs::absolute(file, error), error);
  if (error) io::fail(name, fmt::format("cannot be written: {}", error.message()));
  const fs::file_status status = fs::status(target, error);
  if (fs::is_directory(status)) io::fail(name, "cannot be written: it is a directory");
  if (fs::exists(status) && !fs::is_regular_file(status))
    io::fail(name, "cannot be written: it is not a regular file");
  return target;
}

/// An empty file of a new name beside `target`, so that it can be renamed to it.
fs::path create_temporary(const fs::path& target, const std::string& name) {
  constexpr int max_attempts = 10000;
  for (int attempt = 0; attempt < max_attempts; ++attempt) {
    fs::path temporary = target.parent_path() / fmt::format(".attn-{}.tmp", attempt);
    if (io::Handle(std::fopen(temporary.c_str(), "wbx"))) return temporary;
    if (errno != EEXIST) break;
  }
  io::fail(name, fmt::format("cannot be written: {}", std::generic_category().message(errno)));
}

void remove_quietly(const fs::path& file) noexcept {
  std::error_code ignored;
  fs::remove(file, ignored);
}

}  // namespace

Tensor read_tensor(const std::string& file) {
  const std::size_t suffix = file.find(fmt::format("{}:", safetensors_suffix));
  if (suffix != std::string::npos) {
    const std::size_t colon = suffix + safetensors_suffix.size();
    return io::read_safetensors(io::InputFile(file.substr(0, colon)), file.substr(colon + 1));
  }
  if (file.ends_with(safetensors_suffix))
    return io::read_safetensors(io::InputFile(file), std::nullopt);
  if (file.ends_with(npy_suffix)) return io::read_npy(io::InputFile(file));
  io::fail(file, "unknown kind of file; a tensor is x.npy or x.safetensors:NAME");
}

void write_tensor(const fs::path& file, const TensorView& tensor, const std::string& name) {
  OutputFiles files;
  files.add(file);
  files.write(file, tensor, name);
  files.commit();
}

void write_safetensors(const fs::path& file, std::span<const NamedTensor> tensors) {
  const std::string name = file.string();
  if (!name.ends_with(safetensors_suffix))
    io::fail(name, "several tensors go into one .safetensors file");
  const fs::path target = target_of(file);
  const fs::path temporary = create_temporary(target, name);
  try {
    io::OutputFile output(temporary, name);
    io::write_safetensors(output, tensors);
    output.close();
    std::error_code error;
    fs::rename(temporary, target, error);
    if (error) io::fail(name, fmt::format("cannot be written: {}", error.message()));
  } catch (...) {
    remove_quietly(temporary);
    throw;
  }
}

void OutputFiles::add(const fs::path& file) {
  Pending pending{target_of(file), {}};
  for (const Pending& other : pending_) {
    if (other.target == pending.target) io::fail(file.string(), "is named as an output twice");
  }
  pending_.reserve(pending_.size() + 1);  // what follows cannot fail once the file is there
  pending.temporary = create_temporary(pending.target, file.string());
  pending_.push_back(std::move(pending));
}

void OutputFiles::write(const fs::path& file, const TensorView& tensor, const std::string& name) {
  const fs::path target = target_of(file);
  const auto pending = std::find_if(pending_.begin(), pending_.end(),
                                    [&](const Pending& other) { return other.target == target; });
  if (pending == pending_.end()) io::fail(file.string(), "was not added to the outputs");
  io::OutputFile output(pending->temporary, file.string());
  if (file.string().ends_with(npy_suffix)) {
    io::write_npy(output, tensor);
  } else {
    const NamedTensor named{name, tensor};
    io::write_safetensors(output, {&named, 1});
  }
  output.close();
  pending->written = true;
}

void OutputFiles::commit() {
  for (const Pending& pending : pending_) {
    if (!pending.written)
      io::fail(pending.target.string(), "was added to the outputs, but not written");
  }
  for (auto pending = pending_.begin(); pending != pending_.end(); ++pending) {
    std::error_code error;
    fs::rename(pending->temporary, pending->target, error);
    if (!error) continue;
    for (auto moved = pending_.begin(); moved != pending; ++moved) remove_quietly(moved->target);
    const std::string name = pending->target.string();
    pending_.erase(pending_.begin(), pending);
    io::fail(name, fmt::format("cannot be written: {}", error.message()));
  }
  pending_.clear();
}

OutputFiles::~OutputFiles() {
  for (const Pending& pending : pending_) remove_quietly(pending.temporary);
}

}  // namespace attn
