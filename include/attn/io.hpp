// Files: NumPy .npy and .safetensors, read and written whole. A library of its own: link attn::io.
#pragma once

#include <attn/tensor.hpp>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace attn {

/// Reads `x.npy`, or one tensor of a safetensors file given as `x.safetensors:NAME`. The element type is the file's:
///   .npy          f2 f4 f8 i1 i4 i8 b1 u1 (as boolean), little endian, C or Fortran order (turned into C order), versions 1 to 3
///   .safetensors  F32 F16 BF16 F64 I8 I32 I64 BOOL
/// Throws Error(io) with one line that names the file and what is wrong with it; sizes are checked against the file's
/// before memory is taken.
Tensor read_tensor(const std::string& file);

struct NamedTensor {
  std::string name;
  TensorView tensor;
};

/// Writes .npy, or, where the path ends in .safetensors, a file with the one tensor `name` (needed for bf16, which .npy lacks).
/// The file appears whole or not at all: it is written beside its place and then renamed.
void write_tensor(const std::filesystem::path& file, const TensorView& tensor, const std::string& name = "tensor");
/// Several tensors in one safetensors file.
void write_safetensors(const std::filesystem::path& file, std::span<const NamedTensor> tensors);

/// Files written as one: every output of a command appears, or none does.
class OutputFiles {
 public:
  /// Creates the temporary file now, so that an unwritable place is known before anything is computed. Throws Error(io).
  void add(const std::filesystem::path& file);
  /// Fills one added file. Throws Error(io) if `file` was not added, or the type does not fit the format.
  void write(const std::filesystem::path& file, const TensorView& tensor, const std::string& name = "tensor");
  /// Moves all of them to their places.
  void commit();
  OutputFiles() = default;
  OutputFiles(const OutputFiles&) = delete;
  OutputFiles& operator=(const OutputFiles&) = delete;
  /// Removes what was not committed.
  ~OutputFiles();

 private:
  struct Pending {
    std::filesystem::path target, temporary;
    bool written = false;
  };
  std::vector<Pending> pending_;
};

}  // namespace attn
