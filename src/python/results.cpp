// Arrays that take results.
#include <fmt/format.h>

#include <new>

#include "array.hpp"
#include "names.hpp"
#include "overlap.hpp"

namespace attn::python {
namespace {

nb::tuple tuple_of(const Dims& shape) {
  nb::object tuple = nb::steal(PyTuple_New(shape.rank()));
  for (int dim = 0; dim < shape.rank(); ++dim)
    PyTuple_SET_ITEM(tuple.ptr(), dim, PyLong_FromLongLong(shape[dim]));
  return nb::borrow<nb::tuple>(tuple);
}

/// A memoryview of f32, which the standard library has.
nb::object make_memoryview(const Dims& shape) {
  const nb::object bytes =
      nb::steal(PyByteArray_FromStringAndSize(nullptr, shape.product() * Py_ssize_t{4}));
  if (!bytes.is_valid()) throw nb::python_error();
  const nb::object view = nb::steal(PyMemoryView_FromObject(bytes.ptr()));
  return view.attr("cast")("f", nb::list(tuple_of(shape)));
}

}  // namespace

void require_kind_with_results(const Array& like) {
  if (like.kind() != Kind::other) return;
  reject_type(
      fmt::format("{} of type {} is neither a NumPy array nor a PyTorch tensor: the call needs "
                  "out=, an array for its result",
                  like.name(), class_name(like.object())));
}

Array make_result(const char* name, const Array& like, DType dtype, const Dims& shape) {
  const bool same = dtype == like.view().dtype;
  const nb::object sizes = tuple_of(shape);
  if (like.kind() == Kind::numpy) {
    const nb::object numpy = nb::steal(PyImport_GetModule(names().numpy));
    const nb::object type =
        same ? attribute(like.object(), names().dtype) : attribute(numpy, names().float32);
    return {name, attribute(numpy, names().empty)(sizes, type)};
  }
  if (like.kind() == Kind::torch) {
    try {
      const nb::object make = attribute(like.object(), names().new_empty);
      if (same) return {name, make(sizes)};
      const nb::object torch = nb::steal(PyImport_GetModule(names().torch));
      return {name, make(sizes, nb::arg("dtype") = attribute(torch, names().float32))};
    } catch (nb::python_error& error) {
      if (!error.matches(PyExc_RuntimeError)) throw;
      throw std::bad_alloc();  // PyTorch has no other reason
    }
  }
  if (dtype != DType::f32) {
    reject_type(
        fmt::format("{} of type {} is neither a NumPy array nor a PyTorch tensor, and attn "
                    "cannot make another one",
                    like.name(), class_name(like.object())));
  }
  return {name, make_memoryview(shape)};
}

Array result_or(const char* name, nb::handle given, const Array& like, DType dtype,
                const Dims& shape) {
  if (!given.is_none()) return {name, given};
  require_kind_with_results(like);
  return make_result(name, like, dtype, shape);
}

void require_apart(const Array& output, const Array& input) {
  if (!output || !input || !share_memory(output.view(), input.view())) return;
  reject(fmt::format("{} lies in the memory of {}; it needs memory of its own", output.name(),
                     input.name()));
}

}  // namespace attn::python
