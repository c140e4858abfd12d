// How errors reach Python.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

namespace attn::python {

namespace nb = nanobind;

/// attn.Error, a ValueError: the call contradicts itself.
[[noreturn]] void reject(const std::string& message);
/// TypeError: an argument is not of a type that could serve.
[[noreturn]] void reject_type(const std::string& message);
/// NotImplementedError: the call means something, but attn does not do it.
[[noreturn]] void not_implemented(const std::string& message);

/// The name of an object's type, for messages.
std::string class_name(nb::handle object);
/// The first line of what str() says; "?" where it fails.
std::string text_of(nb::handle object);

/// Adds the class attn.Error, which attn::Error becomes. Error(unsupported) becomes
/// NotImplementedError.
void bind_errors(nb::module_& module);

}  // namespace attn::python
