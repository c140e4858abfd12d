// Files: NumPy .npy and .safetensors, read and written whole, or mapped into memory. A library of
// its own: link attn::io.
#pragma once

#include <attn/tensor.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace attn {

/// Reads `x.npy`, or one tensor of a safetensors file given as `x.safetensors:NAME`. The element
/// type is the file's:
///   .npy          f2 f4 f8 i1 i4 i8 b1 u1 (as boolean), little endian, C or Fortran order (turned
///   into C order), versions 1 to 3 .safetensors  F32 F16 BF16 F64 I8 I32 I64 BOOL
/// Throws Error(io) with one line that names the file and what is wrong with it; sizes are checked
/// against the file's before memory is taken.
Tensor read_tensor(const std::string& file);

/// All tensors of a .safetensors file, mapped into memory: nothing is copied, and pages are read as
/// they are touched. Only a tensor that does not begin at a multiple of its element's size is
/// copied, when the file is opened.
///
/// Views hold as long as the object, wherever it is moved. Nobody may make the file shorter
/// meanwhile: who touches what was cut off gets SIGBUS, as with every mapping. To replace a file
/// under a running program, rename a new one to its place, as write_safetensors does.
class MappedTensors {
 public:
  /// Throws Error(io) as read_tensor does. Tensors of types that are not read may be there;
  /// tensor() refuses them.
  explicit MappedTensors(const std::string& file);
  MappedTensors(MappedTensors&&) noexcept;
  MappedTensors& operator=(MappedTensors&&) noexcept;
  ~MappedTensors();

  const std::string& file() const noexcept;
  /// In the order of their bytes.
  const std::vector<std::string>& names() const noexcept;
  bool contains(const std::string& name) const noexcept;
  /// Dense; any byte of a boolean but 0 is true. Throws Error(io), which names file and tensor, if
  /// it is not there or of another type.
  TensorView tensor(const std::string& name) const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

struct NamedTensor {
  std::string name;
  TensorView tensor;
};

/// Writes .npy, or, where the path ends in .safetensors, a file with the one tensor `name` (needed
/// for bf16, which .npy lacks). The file appears whole or not at all: it is written beside its
/// place and then renamed.
void write_tensor(const std::filesystem::path& file, const TensorView& tensor,
                  const std::string& name = "tensor");
/// Several tensors in one safetensors file.
void write_safetensors(const std::filesystem::path& file, std::span<const NamedTensor> tensors);

/// Files written as one: every output of a command appears, or none does.
class OutputFiles {
 public:
  /// Creates the temporary file now, so that an unwritable place is known before anything is
  /// computed. Throws Error(io).
  void add(const std::filesystem::path& file);
  /// Fills one added file. Throws Error(io) if `file` was not added, or the type does not fit the
  /// format.
  void write(const std::filesystem::path& file, const TensorView& tensor,
             const std::string& name = "tensor");
  /// Fills one added .safetensors file with several tensors.
  void write(const std::filesystem::path& file, std::span<const NamedTensor> tensors);
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
  Pending& pending_for(const std::filesystem::path& file);

  std::vector<Pending> pending_;
};

}  // namespace attn
