// Where the elements of a strided tensor lie, and the reading of integer elements.
//
// An index names an element by one number for each dim. Functions that take an index accept fewer
// numbers than the tensor has dims; the dims that are left out are at 0, so that an index of
// rank - 1 numbers names a row.
#pragma once

#include <attn/tensor.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace attn::detail {

/// All values but that of `dim`, which is counted from the last one if it is negative.
inline Dims remove_dim(const Dims& dims, int dim) noexcept {
  const int removed = dim < 0 ? dim + dims.rank() : dim;
  Dims rest = dims;
  int rank = 0;
  for (int n = 0; n < dims.rank(); ++n) {
    if (n != removed) rest[rank++] = dims[n];
  }
  return Dims(rest.begin(), rank);
}

/// The distance of an element from the tensor's first, in elements.
template <std::convertible_to<std::int64_t>... Index>
std::int64_t offset_of(const Dims& strides, Index... index) noexcept {
  const std::int64_t indices[] = {static_cast<std::int64_t>(index)...};
  std::int64_t offset = 0;
  int dim = 0;
  for (const std::int64_t i : indices) offset += i * strides[dim++];
  return offset;
}

inline std::int64_t offset_of(const Dims& strides, const Dims& index) noexcept {
  std::int64_t offset = 0;
  for (int dim = 0; dim < index.rank(); ++dim) offset += index[dim] * strides[dim];
  return offset;
}

/// The address `offset` elements after the tensor's first. It can be written to only where the
/// tensor can. Null for a tensor without data.
inline std::byte* address_at(const TensorView& tensor, std::int64_t offset) noexcept {
  auto* const data = static_cast<std::byte*>(const_cast<void*>(tensor.data));
  if (data == nullptr) return nullptr;
  return data + offset * static_cast<std::int64_t>(size_of(tensor.dtype));
}

/// The address of an element.
template <class... Index>
std::byte* address_of(const TensorView& tensor, const Index&... index) noexcept {
  return address_at(tensor, offset_of(tensor.strides, index...));
}

/// Whether integer_at() can read elements of this type.
constexpr bool is_integer(DType dtype) noexcept {
  return dtype == DType::i32 || dtype == DType::i64;
}

/// The value `offset` elements after the first of an i32 or i64 tensor.
inline std::int64_t integer_at_offset(const TensorView& tensor, std::int64_t offset) noexcept {
  return tensor.dtype == DType::i32 ? static_cast<const std::int32_t*>(tensor.data)[offset]
                                    : static_cast<const std::int64_t*>(tensor.data)[offset];
}

/// An element of an i32 or i64 tensor.
template <class... Index>
std::int64_t integer_at(const TensorView& tensor, const Index&... index) noexcept {
  return integer_at_offset(tensor, offset_of(tensor.strides, index...));
}

/// The index of element n, counted in row-major order.
inline Dims index_of(const Dims& shape, std::int64_t n) noexcept {
  Dims index = shape;
  for (int dim = shape.rank() - 1; dim >= 0; --dim) {
    index[dim] = n % shape[dim];
    n /= shape[dim];
  }
  return index;
}

/// Calls f(index) for each index of the shape, in row-major order. For rank 0 that is one call with
/// an empty index. With the shape of all dims but the last, the indices are those of a tensor's
/// rows.
template <class F>
void for_each_index(const Dims& shape, F&& f) {
  Dims index = shape;
  for (int dim = 0; dim < shape.rank(); ++dim) index[dim] = 0;
  for (std::int64_t n = shape.product(); n > 0; --n) {
    f(index);
    for (int dim = shape.rank() - 1; dim >= 0 && ++index[dim] == shape[dim]; --dim) index[dim] = 0;
  }
}

}  // namespace attn::detail
