// Checks of tensors and numbers. Each throws Error(invalid_argument) with a message that names the
// argument, what it is and what it needs to be.
#pragma once

#include <attn/error.hpp>
#include <attn/tensor.hpp>

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include "tensor/size.hpp"

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

/// Whether numbers of elements, and what a few of them add up or multiply to, fit 64 bits. An
/// extent of 0 does not excuse the others.
inline bool fits(const Dims& shape) noexcept {
  std::int64_t elements = 1;
  for (const std::int64_t extent : shape) {
    if (extent < 0 || extent > most_elements) return false;
    elements = saturating_product(elements, extent == 0 ? 1 : extent);
  }
  return elements <= most_elements;
}

[[noreturn, gnu::cold]] inline void reject_shape(const char* name, const Dims& shape) {
  for (int dim = 0; dim < shape.rank(); ++dim) {
    if (shape[dim] < 0) {
      reject(fmt::format("{} has shape {}: dim {} is {}; it needs 0 or more", name,
                         shape.to_string(), dim, shape[dim]));
    }
  }
  reject(fmt::format("{} has shape {}; it needs at most 2^48 elements, extents of 0 not counted",
                     name, shape.to_string()));
}

/// Throws for a negative extent.
inline void require_extents(const char* name, const Dims& shape) {
  for (const std::int64_t extent : shape) {
    if (extent < 0) reject_shape(name, shape);
  }
}

/// Throws for a negative extent, and for too many elements.
inline void require_shape(const char* name, const Dims& shape) {
  if (!fits(shape)) reject_shape(name, shape);
}

template <class Enum>
void require_enumerator(const char* name, Enum value, Enum last) {
  const auto number = static_cast<std::int64_t>(value);
  if (number < 0 || number > static_cast<std::int64_t>(last))
    reject(fmt::format("{} is {}, which is no enumerator of its type", name, number));
}

/// What the type and the shape of a tensor need to be in any call. The fields of views are public,
/// so they may hold what no constructor takes.
inline void require_form(const char* name, const TensorView& tensor) {
  require_enumerator(name, tensor.dtype, DType::boolean);
  require_shape(name, tensor.shape);
}

[[noreturn, gnu::cold]] inline void reject_memory(const char* name, const TensorView& tensor) {
  const std::string shape = tensor.shape.to_string(), strides = tensor.strides.to_string();
  if (tensor.strides.rank() != tensor.shape.rank()) {
    reject(fmt::format("{} has strides {} for shape {}; it needs as many strides as dims", name,
                       strides, shape));
  }
  for (int dim = 0; dim < tensor.rank(); ++dim) {
    if (reach(tensor.shape[dim], tensor.strides[dim]) > most_elements) {
      reject(
          fmt::format("{} has strides {} for shape {}: dim {} reaches further than 2^48 elements",
                      name, strides, shape, dim));
    }
  }
  if (tensor.data == nullptr && tensor.size() > 0)
    reject(fmt::format("{} of shape {} has no data (null pointer)", name, shape));
  reject(fmt::format("{} of type {} is at address {}; it needs a multiple of {}", name,
                     name_of(tensor.dtype), tensor.data, size_of(tensor.dtype)));
}

inline bool strides_fit(const TensorView& tensor) noexcept {
  bool fit = tensor.strides.rank() == tensor.shape.rank();
  for (int dim = 0; dim < tensor.rank(); ++dim)
    fit = fit && reach(tensor.shape[dim], tensor.strides[dim]) <= most_elements;
  return fit;
}

/// Throws unless there are as many strides as dims, and offsets that are computed from them fit 64
/// bits. It is enough for functions that look at the layout of a tensor alone, which may have no
/// data.
inline void require_strides(const char* name, const TensorView& tensor) {
  if (!strides_fit(tensor)) reject_memory(name, tensor);
}

/// What the memory of a tensor needs to be in any call: elements where strides can reach them, at a
/// multiple of `alignment` bytes.
inline void require_memory(const char* name, const TensorView& tensor, std::size_t alignment) {
  const bool right = strides_fit(tensor) && (tensor.data != nullptr || tensor.size() == 0) &&
                     reinterpret_cast<std::uintptr_t>(tensor.data) % alignment == 0;
  if (!right) reject_memory(name, tensor);
}
inline void require_memory(const char* name, const TensorView& tensor) {
  require_memory(name, tensor, size_of(tensor.dtype));
}

/// Throws unless a tensor can be read: form and memory are right.
inline void require_data(const char* name, const TensorView& tensor) {
  require_form(name, tensor);
  require_memory(name, tensor);
}
/// The same for functions that read elements at any address.
inline void require_unaligned_data(const char* name, const TensorView& tensor) {
  require_form(name, tensor);
  require_memory(name, tensor, 1);
}

inline void require_within(const char* name, std::int64_t value, std::int64_t low,
                           std::int64_t high, const char* meaning) {
  if (low > high) reject(fmt::format("{} is {}, but there is none ({})", name, value, meaning));
  if (value < low || value > high)
    reject(
        fmt::format("{} is {}; it needs to lie in {}..{} ({})", name, value, low, high, meaning));
}

/// The object behind a pointer that is null after a move.
template <class Pointer>
auto& not_moved_from(const char* name, const Pointer& pointer) {
  if (pointer == nullptr)
    reject(fmt::format("{} was moved from; it can only be assigned to", name));
  return *pointer;
}

inline void require_positive(const char* name, std::int64_t value) {
  if (value < 1) reject(fmt::format("{} is {}; it needs 1 or more", name, value));
}

}  // namespace attn::detail
