// Checks of tensors and numbers. Each throws Error(invalid_argument) with a message that names the
// argument, what it is and what it needs to be.
#pragma once

#include <attn/error.hpp>
#include <attn/tensor.hpp>

#include <fmt/format.h>

#include <cstdint>
#include <string>

namespace attn::detail {

[[noreturn]] inline void reject(const std::string& message) {
  throw Error(ErrorCode::invalid_argument, message);
}

inline void require_rank(const char* name, const TensorView& tensor, int rank, const char* layout) {
  if (tensor.rank() != rank) {
    reject(fmt::format("{} has shape {} of rank {}; it needs rank {}: {}", name,
                       tensor.shape.to_string(), tensor.rank(), rank, layout));
  }
}

inline void require_extent(const char* name, const TensorView& tensor, int dim, std::int64_t needed,
                           const char* meaning) {
  if (tensor.shape[dim] != needed) {
    reject(fmt::format("{} has shape {}: dim {} is {}, but it needs {} ({})", name,
                       tensor.shape.to_string(), dim, tensor.shape[dim], needed, meaning));
  }
}

inline void require_float(const char* name, const TensorView& tensor) {
  if (tensor.dtype != DType::f32 && tensor.dtype != DType::bf16 && tensor.dtype != DType::f16) {
    reject(fmt::format("{} has type {}; it needs f32, bf16 or f16", name, name_of(tensor.dtype)));
  }
}

inline void require_type(const char* name, const TensorView& tensor, DType dtype) {
  if (tensor.dtype != dtype)
    reject(fmt::format("{} has type {}; it needs {}", name, name_of(tensor.dtype), name_of(dtype)));
}

inline void require_integers(const char* name, const TensorView& tensor) {
  if (tensor.dtype != DType::i32 && tensor.dtype != DType::i64)
    reject(fmt::format("{} has type {}; it needs i32 or i64", name, name_of(tensor.dtype)));
}

inline void require_data(const char* name, const TensorView& tensor) {
  if (tensor.data == nullptr && tensor.size() > 0) {
    reject(
        fmt::format("{} of shape {} has no data (null pointer)", name, tensor.shape.to_string()));
  }
}

inline void require_within(const char* name, std::int64_t value, std::int64_t low,
                           std::int64_t high, const char* meaning) {
  if (value < low || value > high)
    reject(
        fmt::format("{} is {}; it needs to lie in {}..{} ({})", name, value, low, high, meaning));
}

inline void require_positive(const char* name, std::int64_t value) {
  if (value < 1) reject(fmt::format("{} is {}; it needs 1 or more", name, value));
}

}  // namespace attn::detail
