// The parts of DLPack's binary interface that are read here: https://dmlc.github.io/dlpack
#pragma once

#include <cstdint>

namespace attn::python::dlpack {

constexpr std::uint32_t major_version = 1;
constexpr std::uint64_t read_only_flag = 1;

enum DeviceType : std::int32_t { cpu = 1, cuda_host = 3 };
enum TypeCode : std::uint8_t {
  signed_integer = 0,
  unsigned_integer,
  ieee_float,
  opaque,
  bfloat,
  complex_float,
  boolean
};

struct Version {
  std::uint32_t major;
  std::uint32_t minor;
};
struct Device {
  std::int32_t type;
  std::int32_t id;
};
struct DataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null for a dense tensor
  std::uint64_t byte_offset;
};

struct ManagedTensor {
  Tensor tensor;
  void* context;
  void (*deleter)(ManagedTensor* self);
};
struct ManagedTensorVersioned {
  Version version;
  void* context;
  void (*deleter)(ManagedTensorVersioned* self);
  std::uint64_t flags;
  Tensor tensor;
};

/// What the capsule `__dlpack_c_exchange_api__` of a type points to.
struct ExchangeApi {
  Version version;
  ExchangeApi* previous;
  void* allocate;
  void* managed_from_object;
  void* managed_to_object;
  /// Describes an object without owning it. Returns 0, or -1 with a Python error. May be null.
  int (*tensor_from_object)(void* object, Tensor* tensor);
  void* current_stream;
};

}  // namespace attn::python::dlpack
