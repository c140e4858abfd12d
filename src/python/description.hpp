// What the protocols of arrays have in common: what an exporter says, and types by their sizes.
#pragma once

#include <attn/tensor.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "array.hpp"

namespace attn::python {

inline std::optional<DType> integer_type(std::size_t size) {
  switch (size) {
    case 1: return DType::i8;
    case 4: return DType::i32;
    case 8: return DType::i64;
    default: return std::nullopt;
  }
}

inline std::optional<DType> float_type(std::size_t size) {
  switch (size) {
    case 2: return DType::f16;
    case 4: return DType::f32;
    case 8: return DType::f64;
    default: return std::nullopt;
  }
}

/// What an exporter says about its memory.
struct Array::Description {
  void* data;
  std::optional<DType> dtype;
  std::string type_name;  // for a message, if dtype is empty
  int rank;
  const std::int64_t* shape;
  const std::int64_t* strides;  // null for a dense tensor
  bool strides_in_bytes;        // otherwise in elements
};

}  // namespace attn::python
