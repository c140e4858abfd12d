// Attributes of Python's objects by names that are looked up in each call.
#pragma once

#include <nanobind/nanobind.h>

namespace attn::python {

namespace nb = nanobind;

/// Names that are looked up in each call. They are made once and hash themselves once.
struct Names {
  PyObject* numpy = PyUnicode_InternFromString("numpy");
  PyObject* ndarray = PyUnicode_InternFromString("ndarray");
  PyObject* empty = PyUnicode_InternFromString("empty");
  PyObject* dtype = PyUnicode_InternFromString("dtype");
  PyObject* float32 = PyUnicode_InternFromString("float32");
  PyObject* torch = PyUnicode_InternFromString("torch");
  PyObject* tensor = PyUnicode_InternFromString("Tensor");
  PyObject* new_empty = PyUnicode_InternFromString("new_empty");
  PyObject* is_neg = PyUnicode_InternFromString("is_neg");
  PyObject* type = PyUnicode_InternFromString("type");
  PyObject* name = PyUnicode_InternFromString("__name__");
  PyObject* mask = PyUnicode_InternFromString("mask");
  PyObject* array_struct = PyUnicode_InternFromString("__array_struct__");
  PyObject* interface = PyUnicode_InternFromString("__array_interface__");
  PyObject* data = PyUnicode_InternFromString("data");
  PyObject* shape = PyUnicode_InternFromString("shape");
  PyObject* strides = PyUnicode_InternFromString("strides");
  PyObject* typestr = PyUnicode_InternFromString("typestr");
  PyObject* exchange_api = PyUnicode_InternFromString("__dlpack_c_exchange_api__");
};
inline const Names& names() {
  static const Names all;
  return all;
}

inline nb::object attribute(nb::handle object, PyObject* name) {
  nb::object result = nb::steal(PyObject_GetAttr(object.ptr(), name));
  if (!result.is_valid()) throw nb::python_error();
  return result;
}

}  // namespace attn::python
