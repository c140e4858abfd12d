// Safetensors: the length of a header, the header in JSON, and the elements of all tensors without
// a gap.
#pragma once

#include <attn/io.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/input_file.hpp"
#include "io/output_file.hpp"

namespace attn::io {

/// A tensor as the header describes it.
struct SafetensorsEntry {
  std::string name;
  std::string type{};       // as the file spells it
  std::uint64_t begin = 0;  // its bytes, counted from the start of the file
  std::uint64_t end = 0;
  Dims shape{};
};

/// All tensors in the order of their bytes. Each byte after the header is one tensor's, and types
/// that are known need as many as there are.
std::vector<SafetensorsEntry> read_safetensors_header(const InputFile& file);
/// Nothing for a type that is not read; tensors of such types may stand beside those that are
/// wanted.
std::optional<DType> type_of(const SafetensorsEntry& entry);
/// Refuses a tensor of a type that is not read, because it is wanted.
[[noreturn]] void refuse_type(const std::string& file, const std::string& tensor,
                              const std::string& type);

/// Without a name: the only tensor.
Tensor read_safetensors(const InputFile& file, const std::optional<std::string>& name);
/// Throws Error(invalid_argument) for names that the format cannot hold, before anything is
/// written.
void write_safetensors(OutputFile& file, std::span<const NamedTensor> tensors);

}  // namespace attn::io
