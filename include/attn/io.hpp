// Tensors in files: NumPy's .npy and Hugging Face's .safetensors, read and written whole or mapped
// into memory. This is a library of its own: link attn::io.
//
//   .npy          https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
//                 one tensor: f2 f4 f8 i1 i4 i8 b1, and u1 as boolean; little endian; C or Fortran
//                 order (which becomes C order); versions 1 to 3
//   .safetensors  https://huggingface.co/docs/safetensors
//                 named tensors: F32 F16 BF16 F64 I8 I32 I64 BOOL
#pragma once

#include <attn/export.hpp>
#include <attn/tensor.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace attn {

/// Reads `x.npy`, or one tensor of a safetensors file, which is given as `x.safetensors:NAME` or,
/// if it is the only one, as `x.safetensors`. Shape and element type are those in the file; the
/// tensor is dense. Throws Error(io) with one line that names the file and what is wrong with it.
/// The size of the file is checked before memory is allocated.
ATTN_API Tensor read_tensor(const std::string& file);

/// All tensors of a .safetensors file, mapped into memory: nothing is copied, and a page is read
/// when it is first touched. The exception is a tensor that does not begin at a multiple of its
/// element's size, which is copied when the file is opened.
///
/// Views are valid as long as the object, or the object to which it was moved. The file must not
/// become shorter meanwhile: as with every mapping, access to what was cut off raises SIGBUS. To
/// replace a file while a program runs, rename a new one to its path, as write_safetensors does.
class ATTN_API MappedTensors {
 public:
  /// Throws Error(io) as read_tensor does. The file may hold tensors of types that are not read;
  /// only tensor() refuses them.
  explicit MappedTensors(const std::string& file);
  MappedTensors(MappedTensors&&) noexcept;
  MappedTensors& operator=(MappedTensors&&) noexcept;
  ~MappedTensors();

  const std::string& file() const noexcept;
  /// The names of all tensors, in the order of their bytes in the file.
  const std::vector<std::string>& names() const noexcept;
  bool contains(const std::string& name) const noexcept;
  /// A dense view. For booleans every byte but 0 is true. Throws Error(io), which names file and
  /// tensor, if there is no such tensor or its element type is not read.
  TensorView tensor(const std::string& name) const;

 private:
  struct ATTN_HIDDEN Parts;
  std::unique_ptr<Parts> parts_;
};

struct NamedTensor {
  std::string name;
  TensorView tensor;
};

/// Writes a .npy file or, if the path ends in .safetensors, a file with the one tensor `name` (bf16
/// needs that, because .npy lacks it). The tensor may be strided; it is written in row-major order.
/// The file appears whole or not at all: it is written under another name and then renamed. Throws
/// Error(io) if it cannot be written, Error(invalid_argument) for a name that the format cannot
/// hold.
ATTN_API void write_tensor(const std::filesystem::path& file, const TensorView& tensor,
                           const std::string& name = "tensor");
/// Writes several tensors to one .safetensors file, in the same way.
ATTN_API void write_safetensors(const std::filesystem::path& file,
                                std::span<const NamedTensor> tensors);

/// Writes several files as one: either all of them appear, or none does.
class ATTN_API OutputFiles {
 public:
  /// Creates a temporary file at once, so that a program learns before its computation that a
  /// folder is not writable. Throws Error(io).
  void add(const std::filesystem::path& file);
  /// Fills one added file. Throws Error(io) if `file` was not added, or the type does not fit the
  /// format.
  void write(const std::filesystem::path& file, const TensorView& tensor,
             const std::string& name = "tensor");
  /// Fills one added .safetensors file with several tensors.
  void write(const std::filesystem::path& file, std::span<const NamedTensor> tensors);
  /// Renames all files to their paths. Throws Error(io), and leaves none of them, if one was not
  /// written or cannot be renamed.
  void commit();
  OutputFiles() = default;
  OutputFiles(const OutputFiles&) = delete;
  OutputFiles& operator=(const OutputFiles&) = delete;
  /// Removes the temporary files of what was not committed.
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
