// Safetensors: the length of a header, the header in JSON, and the elements of all tensors without a gap.
#pragma once

#include <attn/io.hpp>

#include <optional>
#include <span>
#include <string>

#include "io/files.hpp"

namespace attn::io {

/// Without a name: the only tensor.
Tensor read_safetensors(const InputFile& file, const std::optional<std::string>& name);
/// Throws Error(invalid_argument) for names that the format cannot hold, before anything is written.
void write_safetensors(OutputFile& file, std::span<const NamedTensor> tensors);

}  // namespace attn::io
