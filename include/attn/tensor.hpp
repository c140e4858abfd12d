// Tensors: element types, shapes, views of memory that someone else owns, and one owning tensor.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>

namespace attn {

enum class DType : std::uint8_t { f32, bf16, f16, f64, i8, i32, i64, boolean };

/// Size of one element in bytes.
constexpr std::size_t size_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::boolean:
    case DType::i8: return 1;
    case DType::bf16:
    case DType::f16: return 2;
    case DType::f32:
    case DType::i32: return 4;
    case DType::f64:
    case DType::i64: return 8;
  }
  return 0;
}
/// "f32", "bf16", ...
std::string_view name_of(DType dtype) noexcept;

/// 16-bit floats as they lie in memory: bf16 is the upper half of an IEEE single, f16 is IEEE half.
struct bf16 {
  std::uint16_t bits;
};
struct f16 {
  std::uint16_t bits;
};

/// The element type of a C++ type.
template <class T>
constexpr DType dtype_of() {
  using Element = std::remove_const_t<T>;
  if constexpr (std::is_same_v<Element, float>)
    return DType::f32;
  else if constexpr (std::is_same_v<Element, bf16>)
    return DType::bf16;
  else if constexpr (std::is_same_v<Element, f16>)
    return DType::f16;
  else if constexpr (std::is_same_v<Element, double>)
    return DType::f64;
  else if constexpr (std::is_same_v<Element, std::int8_t>)
    return DType::i8;
  else if constexpr (std::is_same_v<Element, std::int32_t>)
    return DType::i32;
  else if constexpr (std::is_same_v<Element, std::int64_t>)
    return DType::i64;
  else {
    static_assert(std::is_same_v<Element, bool>, "attn: no DType for this element type");
    return DType::boolean;
  }
}

/// Up to eight extents or strides, outermost first. Shapes and strides are counted in elements,
/// never in bytes.
class Dims {
 public:
  static constexpr int max_rank = 8;

  constexpr Dims() = default;
  /// Throws Error(invalid_argument) for more than max_rank values.
  Dims(std::initializer_list<std::int64_t> values);
  Dims(const std::int64_t* values, int rank);

  constexpr int rank() const noexcept { return rank_; }
  constexpr std::int64_t& operator[](int dim) noexcept {
    return values_[static_cast<std::size_t>(dim)];
  }
  constexpr std::int64_t operator[](int dim) const noexcept {
    return values_[static_cast<std::size_t>(dim)];
  }
  constexpr const std::int64_t* begin() const noexcept { return values_.data(); }
  constexpr const std::int64_t* end() const noexcept { return values_.data() + rank_; }
  friend bool operator==(const Dims& a, const Dims& b) noexcept;

  /// Product of all values; 1 for rank 0.
  std::int64_t product() const noexcept;
  /// "[2, 8, 128, 64]"
  std::string to_string() const;

 private:
  std::array<std::int64_t, max_rank> values_{};
  int rank_ = 0;
};

/// Row-major strides of a dense tensor of this shape.
Dims dense_strides(const Dims& shape) noexcept;

/// A typed, strided window on memory that the caller keeps alive. Any strides work, 0 (broadcast)
/// and negative ones included; `data` points at element (0, ..., 0). A default-made view has no
/// data and stands for "not given". Void is `const void` for inputs (TensorView) and `void` for
/// outputs (MutableTensorView).
template <class Void>
struct BasicTensorView {
  Void* data = nullptr;
  DType dtype = DType::f32;
  Dims shape;
  Dims strides;

  constexpr BasicTensorView() = default;
  BasicTensorView(Void* memory, DType type, const Dims& extents)
      : BasicTensorView(memory, type, extents, dense_strides(extents)) {}
  /// Throws Error(invalid_argument) if the ranks differ or an extent is negative.
  BasicTensorView(Void* memory, DType type, const Dims& extents, const Dims& steps);
  /// From a typed pointer: TensorView(q.data(), {1, 8, 128, 64}).
  template <class T>
  requires(!std::is_void_v<T> && std::is_convertible_v<T*, Void*>)
      BasicTensorView(T* memory, const Dims& extents)
      : BasicTensorView(memory, dtype_of<T>(), extents) {}
  template <class T>
  requires(!std::is_void_v<T> && std::is_convertible_v<T*, Void*>)
      BasicTensorView(T* memory, const Dims& extents, const Dims& steps)
      : BasicTensorView(memory, dtype_of<T>(), extents, steps) {}
  /// A writable view is a readable one.
  template <class Other>
  requires(std::is_const_v<Void> && !std::is_const_v<Other>)
      BasicTensorView(const BasicTensorView<Other>& other)
  noexcept : data(other.data), dtype(other.dtype), shape(other.shape), strides(other.strides) {}

  int rank() const noexcept { return shape.rank(); }
  /// Rank 0 without data: an optional tensor that was left out.
  bool absent() const noexcept { return data == nullptr && rank() == 0; }
  std::int64_t size() const noexcept { return shape.product(); }

  /// The same memory with the dims in another order: a [batch, seq, heads, dim] buffer becomes
  /// [batch, heads, seq, dim] by permuted({0, 2, 1, 3}). Throws Error(invalid_argument) if order is
  /// no permutation.
  BasicTensorView permuted(const Dims& order) const;
  /// Elements begin..end-1 of one dim. Throws Error(invalid_argument) if they do not lie inside it.
  BasicTensorView sliced(int dim, std::int64_t begin, std::int64_t end) const;
};

using TensorView = BasicTensorView<const void>;
using MutableTensorView = BasicTensorView<void>;

extern template struct BasicTensorView<const void>;
extern template struct BasicTensorView<void>;

/// Owns dense, 64-byte aligned memory. Movable, not copyable: copy_as says when memory is copied.
class Tensor {
 public:
  Tensor() = default;
  /// Zero-filled. Throws Error(invalid_argument) for a negative extent or a size that overflows,
  /// std::bad_alloc for want of memory.
  Tensor(DType dtype, const Dims& shape);

  DType dtype() const noexcept { return dtype_; }
  const Dims& shape() const noexcept { return shape_; }
  std::int64_t size() const noexcept { return shape_.product(); }
  std::size_t size_in_bytes() const noexcept {
    return static_cast<std::size_t>(size()) * size_of(dtype_);
  }
  void* data() noexcept { return memory_.get(); }
  const void* data() const noexcept { return memory_.get(); }
  /// Typed access; throws Error(invalid_argument) if T is not the element type.
  template <class T>
  T* data() {
    require(dtype_of<T>());
    return static_cast<T*>(data());
  }
  template <class T>
  const T* data() const {
    require(dtype_of<T>());
    return static_cast<const T*>(data());
  }
  MutableTensorView view() noexcept { return {data(), dtype_, shape_}; }
  TensorView view() const noexcept { return {data(), dtype_, shape_}; }

 private:
  struct Free {
    void operator()(void* memory) const noexcept;
  };
  void require(DType dtype) const;

  DType dtype_ = DType::f32;
  Dims shape_{0};
  std::unique_ptr<void, Free> memory_;
};

/// A dense copy in another element type. Floats round to nearest even, floats to integers truncate
/// (out of range or NaN: Error(invalid_argument)), anything but zero becomes true.
Tensor copy_as(const TensorView& source, DType dtype);
/// The same, into memory that exists. Throws Error(invalid_argument) if the shapes differ.
void copy_into(const TensorView& source, const MutableTensorView& destination);

}  // namespace attn
