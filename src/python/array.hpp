// Arrays of Python as tensors, without copies, and arrays that take results.
#pragma once

#include <nanobind/nanobind.h>
#include <attn/tensor.hpp>

#include <memory>

#include "errors.hpp"

namespace attn::python {

/// Of which library an array is. Results are of the kind that q was.
enum class Kind { numpy, torch, other };

Kind kind_of(nb::handle object);

/// A tensor that lies in the memory of a Python object: a PyTorch tensor, a NumPy array, or
/// anything that exports its memory by DLPack, the buffer protocol or __array_interface__. Created
/// and destroyed with the GIL; the view can be used without.
class Array {
 public:
  /// Stands for an array that is not given.
  Array() = default;
  /// None is an array that is not given. Throws TypeError for what is no array, attn.Error for one
  /// that cannot be a tensor, and NotImplementedError for memory of another device.
  Array(const char* name, nb::handle object);
  /// The same for an array that must be given.
  static Array required(const char* name, nb::handle object);

  explicit operator bool() const noexcept { return !view_.absent(); }
  const TensorView& view() const noexcept { return view_; }
  /// The view of an output. Throws attn.Error if its memory is read-only.
  MutableTensorView writable() const;
  /// Another view of the same memory.
  void set_view(const TensorView& view) noexcept { view_ = view; }

  const char* name() const noexcept { return name_; }
  nb::handle object() const noexcept { return object_; }
  Kind kind() const noexcept { return kind_; }

 private:
  struct Description;
  void read(nb::handle object);
  bool read_buffer(nb::handle object);
  bool read_exchange(nb::handle object);
  bool read_dlpack(nb::handle object);
  bool read_array_struct(nb::handle object);
  bool read_array_interface(nb::handle object);
  bool read_torch(nb::handle object);
  bool read_any(nb::handle object);
  void describe_buffer(const Py_buffer& buffer);
  void set(const Description& description);

  const char* name_ = "";
  TensorView view_{};
  bool read_only_ = false;
  Kind kind_ = Kind::other;
  nb::object object_;
  std::shared_ptr<void> memory_;  // what the exporter has to be given back
};

/// Throws TypeError for arrays of a library that results of a call cannot be made of.
void require_kind_with_results(const Array& like);
/// An array of the same library as `like`, dense, of a shape, whose elements are not set. Its type
/// is that of `like` or f32. Of other libraries than NumPy and PyTorch, it is a memoryview of f32.
/// Throws MemoryError.
Array make_result(const char* name, const Array& like, DType dtype, const Dims& shape);
/// `given`, checked to be writable, or if it is None, a new one.
Array result_or(const char* name, nb::handle given, const Array& like, DType dtype,
                const Dims& shape);

/// Throws attn.Error if an output lies in memory that an input is read from.
void require_apart(const Array& output, const Array& input);

}  // namespace attn::python
