// Arrays by DLPack: its functions in C, which some types have, or a capsule.
#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <string>

#include "array.hpp"
#include "description.hpp"
#include "dlpack.hpp"
#include "names.hpp"
#include "options.hpp"

namespace attn::python {
namespace {

std::optional<DType> type_of(const dlpack::DataType& type) {
  if (type.lanes != 1) return std::nullopt;
  const std::size_t size = type.bits / 8u;
  switch (type.code) {
    case dlpack::signed_integer: return integer_type(size);
    case dlpack::ieee_float: return float_type(size);
    case dlpack::bfloat: return size == 2 ? std::optional(DType::bf16) : std::nullopt;
    case dlpack::boolean: return size == 1 ? std::optional(DType::boolean) : std::nullopt;
    default: return std::nullopt;
  }
}

std::string name_of_type(const dlpack::DataType& type) {
  constexpr const char* names[] = {"int", "uint", "float", "opaque", "bfloat", "complex", "bool"};
  if (type.code >= std::size(names)) return fmt::format("DLPack type code {}", int{type.code});
  return fmt::format("{}{}", names[type.code], int{type.bits});
}

/// Only the memory of the processor can be read.
void require_processor(const char* name, std::int64_t device) {
  if (device == dlpack::cpu || device == dlpack::cuda_host) return;
  not_implemented(
      fmt::format("{} is on a device of DLPack's type {}; attn computes on CPUs", name, device));
}

}  // namespace

bool Array::read_exchange(nb::handle object) {
  const nb::object capsule = nb::steal(
      PyObject_GetAttr(reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())), names().exchange_api));
  if (!capsule.is_valid()) {
    PyErr_Clear();
    return false;
  }
  if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return false;
  const auto* api = static_cast<const dlpack::ExchangeApi*>(
      PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  while (api != nullptr && api->version.major > dlpack::major_version) api = api->previous;
  if (api == nullptr || api->tensor_from_object == nullptr) return false;
  dlpack::Tensor tensor;
  if (api->tensor_from_object(object.ptr(), &tensor) != 0) throw nb::python_error();
  require_processor(name_, tensor.device.type);
  set({.data = static_cast<char*>(tensor.data) + tensor.byte_offset,
       .dtype = type_of(tensor.dtype),
       .type_name = name_of_type(tensor.dtype),
       .rank = tensor.ndim,
       .shape = tensor.shape,
       .strides = tensor.strides,
       .strides_in_bytes = false});
  return true;
}

namespace {

/// Calls __dlpack__, of version 1 if the exporter knows versions.
nb::object dlpack_capsule(nb::handle object) {
  try {
    return object.attr("__dlpack__")(nb::arg("max_version") = nb::make_tuple(1, 0));
  } catch (nb::python_error& error) {
    if (!error.matches(PyExc_TypeError)) throw;
  }
  return object.attr("__dlpack__")();
}

template <class Managed>
std::shared_ptr<void> own(nb::handle capsule, Managed* managed, const char* used_name) {
  PyCapsule_SetName(capsule.ptr(), used_name);
  return {managed, [managed](void*) {
            if (managed->deleter != nullptr) managed->deleter(managed);
          }};
}

}  // namespace

bool Array::read_dlpack(nb::handle object) {
  if (!nb::hasattr(object, "__dlpack__")) return false;
  if (nb::hasattr(object, "__dlpack_device__")) {
    const nb::object device = object.attr("__dlpack_device__")();
    require_processor(name_, required_integer(name_, device[0]));
  }
  const nb::object capsule = dlpack_capsule(object);
  const dlpack::Tensor* tensor = nullptr;
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    auto* const managed = static_cast<dlpack::ManagedTensorVersioned*>(
        PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    if (managed->version.major > dlpack::major_version)
      not_implemented(
          fmt::format("{} exports DLPack {}; attn reads version 1", name_, managed->version.major));
    memory_ = own(capsule, managed, "used_dltensor_versioned");
    read_only_ = (managed->flags & dlpack::read_only_flag) != 0;
    tensor = &managed->tensor;
  } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    auto* const managed =
        static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    memory_ = own(capsule, managed, "used_dltensor");
    tensor = &managed->tensor;
  } else {
    reject_type(fmt::format("{}: __dlpack__ of type {} returned no DLPack capsule", name_,
                            class_name(object)));
  }
  require_processor(name_, tensor->device.type);
  set({.data = static_cast<char*>(tensor->data) + tensor->byte_offset,
       .dtype = type_of(tensor->dtype),
       .type_name = name_of_type(tensor->dtype),
       .rank = tensor->ndim,
       .shape = tensor->shape,
       .strides = tensor->strides,
       .strides_in_bytes = false});
  return true;
}

}  // namespace attn::python
