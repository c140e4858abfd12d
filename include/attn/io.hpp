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

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace attn {

/// Reads `x.npy`, or one tensor of a safetensors file, which is given as `x.safetensors:NAME` or,
/// if it is the only one, as `x.safetensors`. Shape and element type are those in the file; the
/// tensor is dense. Throws Error(io) with one line that names the file and what is wrong with it.
/// The size of the file is checked before memory is allocated.
ATTN_API Tensor read_tensor(const std::string& file);
/// Reads integers or booleans of any size, i1 i2 i4 i8 u1 u2 u4 u8 b1 or I8 to I64, U8 to U64 and
/// BOOL, as i64; otherwise like read_tensor(). u1 has numbers here. Throws Error(io) for other
/// element types, and for a number beyond i64.
ATTN_API Tensor read_integers(const std::string& file);

/// All tensors of a .safetensors file, mapped into memory: nothing is copied, and a page is read
/// when it is first touched. The exception is a tensor that does not begin at a multiple of its
/// element's size, which is copied when the file is opened.
///
/// Views are valid as long as the object, or the object to which it was moved. The file must not
/// become shorter meanwhile: as with every mapping, access to what was cut off raises SIGBUS. To
/// replace a file while a program runs, rename a new one to its path, as write_safetensors does.
/// The functions of an object that was moved from throw Error(invalid_argument).
class ATTN_API MappedTensors {
 public:
  /// Throws Error(io) as read_tensor does. The file may hold tensors of types that are not read;
  /// only tensor() refuses them.
  explicit MappedTensors(const std::string& file);
  MappedTensors(MappedTensors&&) noexcept;
  MappedTensors& operator=(MappedTensors&&) noexcept;
  ~MappedTensors();

  const std::string& file() const;
  /// The names of all tensors, in the order of their bytes in the file.
  const std::vector<std::string>& names() const;
  bool contains(const std::string& name) const;
  /// A dense view. For booleans every byte but 0 is true. Throws Error(io), which names file and
  /// tensor, if there is no such tensor or its element type is not read.
  TensorView tensor(const std::string& name) const;

 private:
  struct ATTN_HIDDEN Parts;
  ATTN_HIDDEN const Parts& parts() const;
  std::unique_ptr<Parts> parts_;
};

/// One tensor of a file, named as for read_tensor(), mapped into memory as MappedTensors maps: a
/// process that reads some of its rows reads no more of the file. The elements may lie at any
/// address, which copy_as() and copy_into() take; the view of a .npy file in Fortran order has its
/// strides. For booleans every byte but 0 is true.
class ATTN_API MappedTensor {
 public:
  /// Throws Error(io) as read_tensor() does.
  explicit MappedTensor(const std::string& file);

  const TensorView& view() const noexcept { return view_; }

 private:
  std::shared_ptr<const std::byte> bytes_;
  TensorView view_;
};

struct NamedTensor {
  std::string name;
  TensorView tensor;
};

// Outputs. A regular file appears whole or not at all: it is written under a temporary name,
// .attn-*.tmp, in its folder, and then renamed to its place. What stood there stays as it was until
// then. Where nothing stood, the file has the permissions that the umask says. A file that is
// replaced gives its permissions to the new one, which is open to its owner alone until then, and
// its owner and group where the system allows that; it does not give access control lists and other
// attributes. What may not be written is not replaced, as for any program that opens a file for
// writing (root may write read-only files). Links are followed, and stay; other hard links to a
// file that is replaced keep what it was. The folder has to admit new files. What exists and is no
// regular file (a FIFO, a device), /dev/stdout, /dev/stderr and /dev/fd/N have no temporary file:
// they receive the bytes when they are written, as .npy unless the name ends in .safetensors.

/// Writes a .npy file or, if the path ends in .safetensors, a file with the one tensor `name` (bf16
/// needs that, because .npy lacks it). The tensor may be strided, at any address; it is written in
/// row-major order. Throws Error(io) if it cannot be written, Error(invalid_argument) for a name
/// that the format cannot hold, and for a view that is not as BasicTensorView says.
ATTN_API void write_tensor(const std::filesystem::path& file, const TensorView& tensor,
                           const std::string& name = "tensor");
/// Writes several tensors to one .safetensors file, in the same way.
ATTN_API void write_safetensors(const std::filesystem::path& file,
                                std::span<const NamedTensor> tensors);
/// Writes a file of any name and content, in the same way.
ATTN_API void write_bytes(const std::filesystem::path& file, std::string_view bytes);

/// Removes the temporary files of all outputs of this process. Those that are being written fail
/// later. It is for handlers of signals that end the program, and may be called in any of them
/// (async-signal-safe); the library installs none. It knows 64 files at a time. A process that is
/// killed without such a handler, as by SIGKILL, may leave temporary files behind; they exist only
/// while a file is written.
ATTN_API void remove_unfinished_outputs() noexcept;

namespace io {
class OutputFile;
}

/// Writes several files as one: either all regular files among them appear, or none does.
class ATTN_API OutputFiles {
 public:
  OutputFiles();
  OutputFiles(const OutputFiles&) = delete;
  OutputFiles& operator=(const OutputFiles&) = delete;
  /// Removes the temporary files of what was not committed.
  ~OutputFiles();

  /// Checks at once that the file can be written, so that a program learns before its computation
  /// that it cannot. Throws Error(io).
  void add(const std::filesystem::path& file);
  /// Fills one added file. Throws Error(io) if `file` was not added, or the type does not fit the
  /// format.
  void write(const std::filesystem::path& file, const TensorView& tensor,
             const std::string& name = "tensor");
  /// Fills one added file with a tensor that comes in parts: each call of next() gives the elements
  /// that follow in row-major order, as a view of the tensor's type and of any shape. Its memory is
  /// used until the next call.
  void write(const std::filesystem::path& file, DType dtype, const Dims& shape,
             const std::function<TensorView()>& next, const std::string& name = "tensor");
  /// Fills one added .safetensors file with several tensors.
  void write(const std::filesystem::path& file, std::span<const NamedTensor> tensors);
  /// Renames all files to their places. Throws Error(io) if one was not written or cannot be
  /// renamed. Then none of them is left, and what they replaced is back, where the file system has
  /// hard links.
  void commit();

 private:
  io::OutputFile& added(const std::filesystem::path& file);

  std::vector<std::unique_ptr<io::OutputFile>> files_;
};

}  // namespace attn
