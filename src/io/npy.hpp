// NumPy's .npy: a magic string, a version, a header in the form of a Python dict, and the elements.
// Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#pragma once

#include "io/input_file.hpp"
#include "io/output_file.hpp"

namespace attn::io {

/// Reads and checks the header.
StoredTensor find_npy(const InputFile& file);
Tensor read_npy(const InputFile& file);
/// Reads integers and booleans of any size as i64.
Tensor read_npy_integers(const InputFile& file);
/// Writes version 1.0 in C order. Throws Error(io) for bf16, which the format lacks, before
/// anything is written.
void write_npy(OutputFile& file, const TensorView& tensor);
/// The same up to the elements.
void write_npy_header(OutputFile& file, DType dtype, const Dims& shape);

}  // namespace attn::io
