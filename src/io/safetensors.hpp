// Safetensors: the length of the header in 8 bytes, the header in JSON, and the elements of all
// tensors without a gap. Format: https://huggingface.co/docs/safetensors
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
  std::uint64_t begin = 0;  // its bytes in the file are begin..end-1
  std::uint64_t end = 0;
  Dims shape{};
};

/// Reads and checks the header, and returns all tensors in the order of their bytes. Each byte
/// after the header belongs to exactly one tensor, and a tensor of a known type has as many bytes
/// as its shape needs. Throws Error(io).
std::vector<SafetensorsEntry> read_safetensors_header(const InputFile& file);
/// The library's name for the element type; nothing for a type that it does not read. A file may
/// hold tensors of such types, as long as nobody asks for them.
std::optional<DType> type_of(const SafetensorsEntry& entry);
/// Throws Error(io) because somebody asks for a tensor of a type that is not read.
[[noreturn]] void refuse_type(const std::string& file, const std::string& tensor,
                              const std::string& type);

/// Finds the tensor of that name. Without a name, the file has to hold a single tensor.
StoredTensor find_safetensors(const InputFile& file, const std::optional<std::string>& name);
/// Reads the tensor of that name. Without a name, the file has to hold a single tensor.
Tensor read_safetensors(const InputFile& file, const std::optional<std::string>& name);
/// Reads integers and booleans of any size as i64.
Tensor read_safetensors_integers(const InputFile& file, const std::optional<std::string>& name);
/// Writes the tensors with the largest elements first, so that all are aligned. Throws
/// Error(invalid_argument) for names that the format cannot hold, before anything is written.
void write_safetensors(OutputFile& file, std::span<const NamedTensor> tensors);
/// The same up to the elements, for one tensor, whose data does not count.
void write_safetensors_header(OutputFile& file, const NamedTensor& tensor);

}  // namespace attn::io
