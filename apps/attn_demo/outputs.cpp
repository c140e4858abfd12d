#include "outputs.hpp"

#include <attn/error.hpp>
#include <attn/io.hpp>

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "apps/support/options.hpp"

namespace attn::apps::demo {

void write_file(const std::string& file, const std::string& bytes) {
  namespace fs = std::filesystem;
  const fs::path target(file),
      temporary = target.parent_path() / fmt::format(".attn-{}.tmp", getpid());
  const auto fail = [&](const std::string& why) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw Error(ErrorCode::io, fmt::format("{}: cannot be written: {}", file, why));
  };
  std::FILE* const handle = std::fopen(temporary.c_str(), "wb");
  if (handle == nullptr) fail(std::generic_category().message(errno));
  const bool complete = std::fwrite(bytes.data(), 1, bytes.size(), handle) == bytes.size();
  if (std::fclose(handle) != 0 || !complete) fail(std::generic_category().message(errno));
  std::error_code error;
  fs::rename(temporary, target, error);
  if (error) fail(error.message());
}

MutableTensorView Outputs::make(const char* option, const std::optional<std::string>& file,
                                DType dtype, const Dims& shape) {
  if (!file) return {};
  if (dtype == DType::bf16 && !file->ends_with(".safetensors"))
    reject_value(option, *file, "a name that ends in .safetensors: .npy has no bf16");
  files_.add(*file);
  // In a .safetensors file the tensor has the name of its option, with underscores.
  std::string name(option + std::string_view("--").size());
  std::replace(name.begin(), name.end(), '-', '_');
  outputs_.push_back({*file, name, Tensor(dtype, shape)});
  return outputs_.back().tensor.view();
}

void Outputs::commit() {
  for (const Output& output : outputs_)
    files_.write(output.file, output.tensor.view(), output.name);
  files_.commit();
}

}  // namespace attn::apps::demo
