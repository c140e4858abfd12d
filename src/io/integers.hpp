// Integers of any size in files, which are read as i64.
#pragma once

#include <attn/tensor.hpp>

#include "io/input_file.hpp"

namespace attn::io {

/// How a file stores integers: a library type of the same size, which holds the bits, and their
/// sign. (f16 holds those of 16 bits, since there is no i16.)
struct IntegerType {
  DType storage;
  bool is_signed;
};

/// The integers as i64. Throws Error(io) for one beyond that.
Tensor widened(const InputFile& file, const Tensor& stored, const IntegerType& type);

}  // namespace attn::io
