#include "array.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "description.hpp"
#include "names.hpp"

namespace attn::python {
namespace {

/// The class of arrays of a library, which is not imported for the question. The first class that
/// an array was of is remembered, and kept as long as the process: nearly all arrays are of it, and
/// the way to it through sys.modules takes longer than what else is asked of them.
class ArrayClass {
 public:
  ArrayClass(PyObject* module_name, PyObject* class_name) noexcept
      : module_name_(module_name), class_name_(class_name) {}

  bool is_known(nb::handle object) const noexcept { return Py_TYPE(object.ptr()) == known_; }

  bool is_class_of(nb::handle object) {
    const nb::object found = find();
    if (!found.is_valid() || !PyType_Check(found.ptr())) return false;
    auto* const type = reinterpret_cast<PyTypeObject*>(found.ptr());
    if (known_ == nullptr && Py_TYPE(object.ptr()) == type) {
      known_ = type;
      Py_INCREF(found.ptr());
    }
    return PyType_IsSubtype(Py_TYPE(object.ptr()), type) != 0;
  }

 private:
  nb::object find() const {
    const nb::object module = nb::steal(PyImport_GetModule(module_name_));
    nb::object result;
    if (module.is_valid()) result = nb::steal(PyObject_GetAttr(module.ptr(), class_name_));
    if (!result.is_valid()) PyErr_Clear();
    return result;
  }

  PyObject* module_name_;
  PyObject* class_name_;
  PyTypeObject* known_ = nullptr;
};

/// The type of a format of the struct module.
std::optional<DType> type_of_format(std::string format, std::size_t size) {
  const bool has_order = !format.empty() && std::string("@=<").find(format[0]) != std::string::npos;
  if (has_order) format.erase(0, 1);
  if (format == "?") return DType::boolean;
  if (format.size() != 1) return std::nullopt;
  if (std::string("efd").find(format) != std::string::npos) return float_type(size);
  if (std::string("bhilq").find(format) != std::string::npos) return integer_type(size);
  return std::nullopt;
}

std::int64_t integer(nb::handle object) {
  const std::int64_t value = PyLong_AsLongLong(object.ptr());
  if (value == -1 && PyErr_Occurred() != nullptr) throw nb::python_error();
  return value;
}

struct ReleaseBuffer {
  void operator()(void* memory) const {
    auto* const buffer = static_cast<Py_buffer*>(memory);
    PyBuffer_Release(buffer);
    delete buffer;
  }
};

}  // namespace

Kind kind_of(nb::handle object) {
  static ArrayClass numpy(names().numpy, names().ndarray), torch(names().torch, names().tensor);
  if (numpy.is_known(object)) return Kind::numpy;
  if (torch.is_known(object)) return Kind::torch;
  if (numpy.is_class_of(object)) return Kind::numpy;
  if (torch.is_class_of(object)) return Kind::torch;
  return Kind::other;
}

Array::Array(const char* name, nb::handle object) : name_(name) {
  if (object.is_none()) return;
  kind_ = kind_of(object);
  object_ = nb::borrow(object);
  read(object);
}

Array Array::required(const char* name, nb::handle object) {
  if (object.is_none()) reject_type(fmt::format("{} is None; it needs an array", name));
  return {name, object};
}

MutableTensorView Array::writable() const {
  if (view_.absent()) return {};
  if (read_only_) reject(fmt::format("{} is read-only; it needs memory to write to", name_));
  return {const_cast<void*>(view_.data), view_.dtype, view_.shape, view_.strides};
}

void Array::read(nb::handle object) {
  std::string reason;
  try {
    if (kind_ == Kind::torch ? read_torch(object) : read_any(object)) return;
  } catch (nb::python_error& error) {
    if (error.matches(PyExc_NotImplementedError) || error.matches(PyExc_MemoryError) ||
        !error.matches(PyExc_Exception)) {
      throw;
    }
    reason = text_of(error.value());
    if (error.matches(PyExc_TypeError) && reason.starts_with(name_)) throw;
  }
  if (kind_ == Kind::torch && text_of(object.attr("device")) != "cpu") {
    not_implemented(fmt::format("{} is on device {}; attn computes on CPUs", name_,
                                text_of(object.attr("device"))));
  }
  if (!reason.empty()) reject(fmt::format("{} cannot be read: {}", name_, reason));
  reject_type(
      fmt::format("{} is of type {}; it needs an array: a NumPy array, a PyTorch tensor, or "
                  "what exports DLPack, the buffer protocol or __array_interface__",
                  name_, class_name(object)));
}

/// Bytes and classes export memory or have the names of methods, but are no arrays.
bool Array::read_any(nb::handle object) {
  if (PyBytes_Check(object.ptr()) || PyByteArray_Check(object.ptr()) ||
      PyType_Check(object.ptr())) {
    return false;
  }
  if (kind_ == Kind::numpy) return read_array_struct(object);
  return read_buffer(object) || read_exchange(object) || read_dlpack(object) ||
         read_array_interface(object);
}

/// DLPack has no mark for tensors that are to be negated when they are read.
bool Array::read_torch(nb::handle object) {
  const nb::object negative = nb::steal(PyObject_CallMethodNoArgs(object.ptr(), names().is_neg));
  if (!negative.is_valid()) throw nb::python_error();
  if (negative.is(Py_True)) {
    reject(fmt::format("{} is the negative of the memory that it views; it needs resolve_neg()",
                       name_));
  }
  return read_exchange(object) || read_dlpack(object.attr("detach")());
}

bool Array::read_buffer(nb::handle object) {
  if (!PyObject_CheckBuffer(object.ptr())) return false;
  auto buffer = std::make_unique<Py_buffer>();
  if (PyObject_GetBuffer(object.ptr(), buffer.get(), PyBUF_RECORDS_RO) != 0) {
    PyErr_Clear();  // a type that the buffer protocol has no name for
    return false;
  }
  memory_ = std::shared_ptr<void>(buffer.release(), ReleaseBuffer());
  describe_buffer(*static_cast<const Py_buffer*>(memory_.get()));
  return true;
}

void Array::describe_buffer(const Py_buffer& buffer) {
  static_assert(sizeof(Py_ssize_t) == sizeof(std::int64_t));
  const std::string format = buffer.format == nullptr ? "B" : buffer.format;
  const auto size = static_cast<std::size_t>(buffer.itemsize);
  read_only_ = buffer.readonly != 0;
  set({.data = buffer.buf,
       .dtype = type_of_format(format, size),
       .type_name = fmt::format("\"{}\" of {} bytes", format, size),
       .rank = buffer.ndim,
       .shape = reinterpret_cast<const std::int64_t*>(buffer.shape),
       .strides = reinterpret_cast<const std::int64_t*>(buffer.strides),
       .strides_in_bytes = true});
}

namespace {

/// The dims of a tuple of integers.
std::array<std::int64_t, Dims::max_rank> dims_of(const nb::tuple& tuple) {
  std::array<std::int64_t, Dims::max_rank> dims{};
  for (std::size_t dim = 0; dim < std::min(tuple.size(), dims.size()); ++dim)
    dims[dim] = integer(tuple[dim]);
  return dims;
}

/// The type of the elements of an array interface. It has no letter for bfloat16, whose elements
/// are V there; the class of such an element is called so.
std::optional<DType> type_of_kind(nb::handle object, char kind, std::size_t size) {
  switch (kind) {
    case 'f': return float_type(size);
    case 'i': return integer_type(size);
    case 'b': return size == 1 ? std::optional(DType::boolean) : std::nullopt;
    case 'V': {
      if (!nb::hasattr(object, "dtype")) return std::nullopt;
      const nb::object type = attribute(attribute(object, names().dtype), names().type);
      const bool named = text_of(attribute(type, names().name)) == "bfloat16" && size == 2;
      return named ? std::optional(DType::bf16) : std::nullopt;
    }
    default: return std::nullopt;
  }
}

}  // namespace

namespace {

/// What the capsule __array_struct__ points to: NumPy's array interface of version 3, in C.
struct ArrayInterface {
  static constexpr int native_order = 0x200, is_writable = 0x400;
  int two;
  int rank;
  char kind;
  int size;
  int flags;
  Py_intptr_t* shape;
  Py_intptr_t* strides;  // in bytes
  void* data;
  PyObject* description;
};

}  // namespace

/// Several times as fast as the other ways, and the only fast one for types such as bfloat16.
bool Array::read_array_struct(nb::handle object) {
  if (class_name(object) != "numpy.ndarray" && nb::hasattr(object, names().mask))
    reject_type(fmt::format("{} is a masked array; it needs filled() first", name_));
  const nb::object capsule = attribute(object, names().array_struct);
  const auto* const array =
      static_cast<const ArrayInterface*>(PyCapsule_GetPointer(capsule.ptr(), nullptr));
  if (array == nullptr) throw nb::python_error();
  const auto size = static_cast<std::size_t>(array->size);
  const bool native = (array->flags & ArrayInterface::native_order) != 0;
  read_only_ = (array->flags & ArrayInterface::is_writable) == 0;
  const std::optional<DType> dtype = type_of_kind(object, array->kind, size);
  const nb::object type = dtype && native ? nb::object() : attribute(object, names().dtype);
  static_assert(sizeof(Py_intptr_t) == sizeof(std::int64_t));
  set({.data = array->data,
       .dtype = native ? dtype : std::nullopt,
       .type_name = type.is_valid() ? text_of(type) : std::string(),
       .rank = array->rank,
       .shape = reinterpret_cast<const std::int64_t*>(array->shape),
       .strides = reinterpret_cast<const std::int64_t*>(array->strides),
       .strides_in_bytes = true});
  return true;
}

bool Array::read_array_interface(nb::handle object) {
  const nb::object interface = nb::steal(PyObject_GetAttr(object.ptr(), names().interface));
  if (!interface.is_valid()) {
    PyErr_Clear();
    return false;
  }
  if (!PyDict_Check(interface.ptr())) return false;
  const auto entry = [&](PyObject* name) {
    return nb::handle(PyDict_GetItemWithError(interface.ptr(), name));
  };
  const nb::handle data = entry(names().data), shape = entry(names().shape);
  const nb::handle strides = entry(names().strides), typestr = entry(names().typestr);
  const bool has_strides = strides.is_valid() && !strides.is_none();
  const nb::handle mask = entry(names().mask);
  if (mask.is_valid() && !mask.is_none())
    reject_type(fmt::format("{} has a mask of its elements, which attn does not read", name_));
  if (!data.is_valid() || !PyTuple_Check(data.ptr()) || PyTuple_GET_SIZE(data.ptr()) != 2 ||
      !shape.is_valid() || !PyTuple_Check(shape.ptr()) || !typestr.is_valid()) {
    return false;
  }
  if (has_strides && (!PyTuple_Check(strides.ptr()) || nb::len(strides) != nb::len(shape)))
    reject(fmt::format("{} has strides that are not one for each dim of its shape", name_));
  const nb::tuple extents_tuple = nb::borrow<nb::tuple>(shape);
  const auto extents = dims_of(extents_tuple);
  const auto steps = has_strides ? dims_of(nb::borrow<nb::tuple>(strides)) : extents;
  void* const address = PyLong_AsVoidPtr(PyTuple_GET_ITEM(data.ptr(), 0));
  if (PyErr_Occurred() != nullptr) throw nb::python_error();
  read_only_ = PyObject_IsTrue(PyTuple_GET_ITEM(data.ptr(), 1)) != 0;
  const std::string type = text_of(typestr);
  const bool readable = type.size() == 3 && type[0] != '>';
  set({.data = address,
       .dtype = readable ? type_of_kind(object, type[1], static_cast<std::size_t>(type[2] - '0'))
                         : std::nullopt,
       .type_name = type,
       .rank = static_cast<int>(extents_tuple.size()),
       .shape = extents.data(),
       .strides = has_strides ? steps.data() : nullptr,
       .strides_in_bytes = true});
  return true;
}

void Array::set(const Description& array) {
  if (!array.dtype) {
    reject(fmt::format("{} has type {}, which no tensor of attn has", name_, array.type_name));
  }
  if (array.rank == 0 && array.data == nullptr) reject(fmt::format("{} has no memory", name_));
  if (array.rank > Dims::max_rank) {
    reject(
        fmt::format("{} has rank {}; it needs at most {}", name_, array.rank, int{Dims::max_rank}));
  }
  const Dims shape(array.shape, array.rank);
  Dims strides = array.strides == nullptr ? dense_strides(shape) : Dims(array.strides, array.rank);
  const auto size = static_cast<std::int64_t>(size_of(*array.dtype));
  for (int dim = 0; dim < array.rank && array.strides != nullptr && array.strides_in_bytes; ++dim) {
    if (strides[dim] % size != 0 && shape[dim] > 1) {
      reject(fmt::format("{} has a stride of {} bytes in dim {}; it needs a multiple of {}", name_,
                         strides[dim], dim, size));
    }
    strides[dim] /= size;
  }
  view_ = TensorView(array.data, *array.dtype, shape, strides);
}

}  // namespace attn::python
