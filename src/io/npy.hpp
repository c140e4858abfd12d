// NumPy's .npy: a magic string, a version, a Python dict literal, and the elements.
#pragma once

#include "io/input_file.hpp"
#include "io/output_file.hpp"

namespace attn::io {

Tensor read_npy(const InputFile& file);
/// Throws Error(io) for bf16, before anything is written.
void write_npy(OutputFile& file, const TensorView& tensor);

}  // namespace attn::io
