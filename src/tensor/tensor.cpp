#include <attn/error.hpp>
#include <attn/tensor.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include "tensor/checks.hpp"
#include "tensor/memory.hpp"
#include "tensor/size.hpp"

namespace attn {
using namespace detail;
Dims::Dims(std::initializer_list<std::int64_t> values)
    : Dims(values.begin(), static_cast<int>(values.size())) {}

Dims::Dims(const std::int64_t* values, int rank) : rank_(rank) {
  if (rank < 0 || rank > max_rank)
    reject(fmt::format("a tensor of rank {} was asked for; ranks go from 0 to {}", rank, max_rank));
  std::copy_n(values, rank, values_.begin());
}

bool operator==(const Dims& a, const Dims& b) noexcept {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

std::int64_t Dims::product() const noexcept {
  if (std::find(begin(), end(), 0) != end()) return 0;
  std::int64_t product = 1;
  for (const std::int64_t value : *this) product = saturating_product(product, value);
  return product;
}

std::string Dims::to_string() const {
  std::string text = "[";
  for (int dim = 0; dim < rank_; ++dim)
    text += (dim == 0 ? "" : ", ") + std::to_string((*this)[dim]);
  return text + "]";
}

Dims dense_strides(const Dims& shape) noexcept {
  Dims strides = shape;
  std::int64_t stride = 1;
  for (int dim = shape.rank() - 1; dim >= 0; --dim) {
    strides[dim] = stride;
    stride = saturating_product(stride, shape[dim]);
  }
  return strides;
}

template <class Void>
BasicTensorView<Void>::BasicTensorView(Void* memory, DType type, const Dims& extents,
                                       const Dims& steps)
    : data(memory), dtype(type), shape(extents), strides(steps) {
  if (extents.rank() != steps.rank()) {
    reject(fmt::format("a view of shape {} was given strides {}: it needs as many strides as dims",
                       extents.to_string(), steps.to_string()));
  }
  for (const std::int64_t extent : extents) {
    if (extent < 0)
      reject(fmt::format("a view was given shape {}: an extent is negative", extents.to_string()));
  }
}

template <class Void>
BasicTensorView<Void> BasicTensorView<Void>::permuted(const Dims& order) const {
  const auto refuse = [&] {
    reject(fmt::format("a view of shape {} was permuted by {}: it needs each of its dims once",
                       shape.to_string(), order.to_string()));
  };
  if (order.rank() != rank()) refuse();
  BasicTensorView result = *this;
  std::array<bool, Dims::max_rank> used{};
  for (int dim = 0; dim < rank(); ++dim) {
    const std::int64_t from = order[dim];
    if (from < 0 || from >= rank() || used[static_cast<std::size_t>(from)]) refuse();
    used[static_cast<std::size_t>(from)] = true;
    result.shape[dim] = shape[static_cast<int>(from)];
    result.strides[dim] = strides[static_cast<int>(from)];
  }
  return result;
}

template <class Void>
BasicTensorView<Void> BasicTensorView<Void>::sliced(int dim, std::int64_t begin,
                                                    std::int64_t end) const {
  if (dim < 0 || dim >= rank())
    reject(fmt::format("a view of shape {} was sliced along dim {}, which it lacks",
                       shape.to_string(), dim));
  if (begin < 0 || end < begin || end > shape[dim]) {
    reject(fmt::format(
        "dim {} of a view of shape {} was sliced from {} to {}: it needs 0 <= begin <= end <= {}",
        dim, shape.to_string(), begin, end, shape[dim]));
  }
  BasicTensorView result = *this;
  result.shape[dim] = end - begin;
  // An empty slice keeps its pointer, because the address of its first element, which does not
  // exist, may lie outside the memory.
  if (data != nullptr && begin > 0 && begin < end) {
    using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
    if (reach(begin, strides[dim]) > most_elements) {
      reject(
          fmt::format("a view of strides {} was sliced from {} on in dim {}: that reaches further "
                      "than 2^48 elements",
                      strides.to_string(), begin, dim));
    }
    result.data =
        static_cast<Byte*>(data) + begin * strides[dim] * static_cast<std::int64_t>(size_of(dtype));
  }
  return result;
}

template struct BasicTensorView<const void>;
template struct BasicTensorView<void>;

Tensor::Tensor(DType dtype, const Dims& shape) : dtype_(dtype), shape_(shape) {
  require_enumerator("dtype", dtype, DType::boolean);
  const std::optional<std::int64_t> size = dense_size_in_bytes(shape, dtype);
  if (!size)
    reject(fmt::format(
        "a tensor of shape {} was asked for: an extent is negative or the size overflows",
        shape.to_string()));
  // At least one byte, so that a tensor without elements is not mistaken for an absent one.
  const auto size_in_memory = std::max<std::size_t>(1, static_cast<std::size_t>(*size));
  memory_.reset(allocate(size_in_memory));
  std::memset(memory_.get(), 0, size_in_memory);
}

Tensor::Tensor(Tensor&& other) noexcept
    : dtype_(other.dtype_),
      shape_(std::exchange(other.shape_, Dims{0})),
      memory_(std::move(other.memory_)) {}

Tensor& Tensor::operator=(Tensor&& other) noexcept {
  dtype_ = other.dtype_;
  shape_ = std::exchange(other.shape_, Dims{0});
  memory_ = std::move(other.memory_);
  return *this;
}

void Tensor::Free::operator()(void* memory) const noexcept { release(memory); }

void Tensor::require(DType dtype) const {
  if (dtype != dtype_)
    reject(fmt::format("a tensor of {} was accessed as {}", name_of(dtype_), name_of(dtype)));
}

}  // namespace attn
