#include "errors.hpp"

#include <attn/error.hpp>

#include <exception>

namespace attn::python {
namespace {

[[noreturn]] void raise(PyObject* type, const std::string& message) {
  PyErr_SetString(type, message.c_str());
  throw nb::python_error();
}

PyObject* error_class = nullptr;  // lives as long as the process

void translate(const std::exception_ptr& exception, void*) {
  try {
    std::rethrow_exception(exception);
  } catch (const Error& error) {
    const bool unsupported = error.code() == ErrorCode::unsupported;
    PyErr_SetString(unsupported ? PyExc_NotImplementedError : error_class, error.what());
  }
}

}  // namespace

void reject(const std::string& message) { throw Error(ErrorCode::invalid_argument, message); }
void reject_type(const std::string& message) { raise(PyExc_TypeError, message); }
void not_implemented(const std::string& message) { raise(PyExc_NotImplementedError, message); }

std::string class_name(nb::handle object) { return Py_TYPE(object.ptr())->tp_name; }

std::string text_of(nb::handle object) {
  const nb::object text = nb::steal(PyObject_Str(object.ptr()));
  const char* const characters = text.is_valid() ? PyUnicode_AsUTF8(text.ptr()) : nullptr;
  if (characters == nullptr) {
    PyErr_Clear();
    return "?";
  }
  const std::string all = characters;
  return all.substr(0, all.find('\n'));
}

void bind_errors(nb::module_& module) {
  error_class = PyErr_NewExceptionWithDoc(
      "attn.Error",
      "The arguments of a call contradict each other or are out of range. The message names the\n"
      "argument, what it is and what it needs to be. Nothing has been written.",
      PyExc_ValueError, nullptr);
  if (error_class == nullptr) throw nb::python_error();
  module.attr("Error") = nb::handle(error_class);
  nb::register_exception_translator(translate);
}

}  // namespace attn::python
