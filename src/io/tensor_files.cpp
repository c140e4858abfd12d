#include <attn/io.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "io/input_file.hpp"
#include "io/npy.hpp"
#include "io/output_file.hpp"
#include "io/safetensors.hpp"

namespace fs = std::filesystem;

namespace attn {
namespace {

constexpr std::string_view npy_suffix = ".npy";
constexpr std::string_view safetensors_suffix = ".safetensors";

[[noreturn]] void fail_to_write(const std::string& file, const std::string& why) {
  io::fail(file, fmt::format("cannot be written: {}", why));
}

/// Where the file will stand: absolute and with links followed, so that two spellings of one place
/// are equal.
fs::path target_of(const fs::path& file) {
  const std::string name = file.string();
  if (!name.ends_with(npy_suffix) && !name.ends_with(safetensors_suffix))
    io::fail(name, "an output's name ends in .npy or .safetensors");
  std::error_code error;
  fs::path target = fs::weakly_canonical(fs::absolute(file, error), error);
  if (error) fail_to_write(name, error.message());
  const fs::file_status status = fs::status(target, error);
  if (fs::is_directory(status)) fail_to_write(name, "it is a directory");
  if (fs::exists(status) && !fs::is_regular_file(status))
    fail_to_write(name, "it is not a regular file");
  return target;
}

/// Creates an empty file with a new name in the folder of `target`, so that it can be renamed to
/// `target` later.
fs::path create_temporary(const fs::path& target, const std::string& name) {
  constexpr int max_attempts = 10000;
  for (int attempt = 0; attempt < max_attempts; ++attempt) {
    fs::path temporary = target.parent_path() / fmt::format(".attn-{}.tmp", attempt);
    if (io::FileHandle(std::fopen(temporary.c_str(), "wbx"))) return temporary;
    if (errno != EEXIST) break;
  }
  fail_to_write(name, io::errno_message());
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
  OutputFiles files;
  files.add(file);
  files.write(file, tensors);
  files.commit();
}

void OutputFiles::add(const fs::path& file) {
  Pending pending{target_of(file), {}};
  for (const Pending& other : pending_) {
    if (other.target == pending.target) io::fail(file.string(), "is named as an output twice");
  }
  // Nothing can fail between the creation of the file and the moment when it is on the list.
  pending_.reserve(pending_.size() + 1);
  pending.temporary = create_temporary(pending.target, file.string());
  pending_.push_back(std::move(pending));
}

OutputFiles::Pending& OutputFiles::pending_for(const fs::path& file) {
  const fs::path target = target_of(file);
  const auto pending = std::find_if(pending_.begin(), pending_.end(),
                                    [&](const Pending& other) { return other.target == target; });
  if (pending == pending_.end()) io::fail(file.string(), "was not added to the outputs");
  return *pending;
}

void OutputFiles::write(const fs::path& file, const TensorView& tensor, const std::string& name) {
  if (!file.string().ends_with(npy_suffix)) {
    const NamedTensor named{name, tensor};
    return write(file, std::span(&named, 1));
  }
  Pending& pending = pending_for(file);
  io::OutputFile output(pending.temporary, file.string());
  io::write_npy(output, tensor);
  output.close();
  pending.written = true;
}

void OutputFiles::write(const fs::path& file, std::span<const NamedTensor> tensors) {
  if (file.string().ends_with(npy_suffix))
    io::fail(file.string(), "several tensors go into one .safetensors file");
  Pending& pending = pending_for(file);
  io::OutputFile output(pending.temporary, file.string());
  io::write_safetensors(output, tensors);
  output.close();
  pending.written = true;
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
    fail_to_write(name, error.message());
  }
  pending_.clear();
}

OutputFiles::~OutputFiles() {
  for (const Pending& pending : pending_) remove_quietly(pending.temporary);
}

}  // namespace attn
