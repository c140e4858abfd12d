// Tensors: element types, shapes, views of memory that the caller owns, and a tensor that owns its
// memory.
#pragma once

#include <attn/export.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>

namespace attn {

/// Element types. f32 and f64 are IEEE single and double, f16 is IEEE half, and bf16 is the upper
/// half of an IEEE single. An element of `boolean` is one byte; every byte but 0 is true.
enum class DType : std::uint8_t { f32, bf16, f16, f64, i8, i32, i64, boolean };

/// The size of one element in bytes.
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
/// The name of the type as it is written in DType: "f32", "bf16", ...
ATTN_API std::string_view name_of(DType dtype) noexcept;

/// The bits of a 16-bit float. These types hold elements in memory; they have no arithmetic.
struct bf16 {
  std::uint16_t bits;
};
struct f16 {
  std::uint16_t bits;
};

/// The DType of elements of the C++ type T.
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

/// The extents or the strides of a tensor with at most max_rank dims, from the outermost dim to the
/// innermost. Both are counted in elements, never in bytes.
class ATTN_API Dims {
 public:
  static constexpr int max_rank = 8;

  constexpr Dims() = default;
  /// Both throw Error(invalid_argument) for more than max_rank values.
  Dims(std::initializer_list<std::int64_t> values);
  Dims(const std::int64_t* values, int rank);

  /// The number of dims.
  constexpr int rank() const noexcept { return rank_; }
  constexpr std::int64_t& operator[](int dim) noexcept {
    return values_[static_cast<std::size_t>(dim)];
  }
  constexpr std::int64_t operator[](int dim) const noexcept {
    return values_[static_cast<std::size_t>(dim)];
  }
  constexpr const std::int64_t* begin() const noexcept { return values_.data(); }
  constexpr const std::int64_t* end() const noexcept { return values_.data() + rank_; }
  friend ATTN_API bool operator==(const Dims& a, const Dims& b) noexcept;

  /// The product of all values; 1 for rank 0. A product that overflows gives the largest int64.
  std::int64_t product() const noexcept;
  /// For example "[2, 8, 128, 64]".
  std::string to_string() const;

 private:
  std::array<std::int64_t, max_rank> values_{};
  int rank_ = 0;
};

/// The row-major strides of a dense tensor of this shape.
ATTN_API Dims dense_strides(const Dims& shape) noexcept;

/// A typed, strided view of memory that the caller keeps alive. Void is `const void` for inputs
/// (TensorView) and `void` for outputs (MutableTensorView). Strides may have any value, including 0
/// (broadcast) and negative ones; `data` points to element (0, ..., 0). A default-constructed view
/// stands for an optional tensor that is not given.
///
/// The fields are public, so they may hold what no constructor takes. Every function checks them:
/// extents are 0 or more, there are as many strides as extents, a tensor has at most 2^48 elements
/// (extents of 0 not counted), no dim reaches further than 2^48 elements, and `data` is a multiple
/// of the element's size (unless a function says that it takes any address).
///
/// Outputs have memory of their own for each element: a stride of 0, or strides that otherwise lead
/// to one place twice, are refused. What a stride is for an extent of 1 does not matter then. Of
/// three and more dims that are interleaved, only an overlap that a short search finds is refused.
template <class Void>
struct ATTN_API BasicTensorView {
  Void* data = nullptr;
  DType dtype = DType::f32;
  Dims shape;
  Dims strides;

  constexpr BasicTensorView() = default;
  /// A dense view. Throws Error(invalid_argument) if an extent is negative.
  BasicTensorView(Void* memory, DType type, const Dims& extents)
      : BasicTensorView(memory, type, extents, dense_strides(extents)) {}
  /// A view with strides. Throws Error(invalid_argument) if there are not as many strides as
  /// extents, or if an extent is negative.
  BasicTensorView(Void* memory, DType type, const Dims& extents, const Dims& steps);
  /// The same two with the element type of a typed pointer: TensorView(q.data(), {1, 8, 128, 64}).
  template <class T>
  requires(!std::is_void_v<T> && std::is_convertible_v<T*, Void*>)
      BasicTensorView(T* memory, const Dims& extents)
      : BasicTensorView(memory, dtype_of<T>(), extents) {}
  template <class T>
  requires(!std::is_void_v<T> && std::is_convertible_v<T*, Void*>)
      BasicTensorView(T* memory, const Dims& extents, const Dims& steps)
      : BasicTensorView(memory, dtype_of<T>(), extents, steps) {}
  /// A MutableTensorView converts to a TensorView.
  template <class Other>
  requires(std::is_const_v<Void> && !std::is_const_v<Other>)
      BasicTensorView(const BasicTensorView<Other>& other)
  noexcept : data(other.data), dtype(other.dtype), shape(other.shape), strides(other.strides) {}

  int rank() const noexcept { return shape.rank(); }
  /// Whether the view stands for an optional tensor that is not given: it has rank 0 and no data.
  bool absent() const noexcept { return data == nullptr && rank() == 0; }
  /// The number of elements.
  std::int64_t size() const noexcept { return shape.product(); }

  /// The same elements with the dims in another order: dim n of the result is dim order[n] of this
  /// view. permuted({0, 2, 1, 3}) turns [batch, seq, heads, dim] into [batch, heads, seq, dim].
  /// Throws Error(invalid_argument) if `order` is not a permutation of the dims.
  BasicTensorView permuted(const Dims& order) const;
  /// The elements with begin <= index < end in one dim. Throws Error(invalid_argument) unless
  /// 0 <= begin <= end <= shape[dim], and if `begin` lies further than 2^48 elements from the
  /// first.
  BasicTensorView sliced(int dim, std::int64_t begin, std::int64_t end) const;
};

using TensorView = BasicTensorView<const void>;
using MutableTensorView = BasicTensorView<void>;

extern template struct BasicTensorView<const void>;
extern template struct BasicTensorView<void>;

/// A dense tensor that owns its memory, which is aligned to 64 bytes. It can be moved but not
/// copied, so that memory is copied only where copy_as() or copy_into() says so. One that was moved
/// from has shape [0] and no data.
class ATTN_API Tensor {
 public:
  Tensor() = default;
  /// A tensor whose elements are 0. Throws Error(invalid_argument) if an extent is negative or the
  /// size in bytes overflows, and std::bad_alloc if there is not enough memory.
  Tensor(DType dtype, const Dims& shape);
  Tensor(Tensor&& other) noexcept;
  Tensor& operator=(Tensor&& other) noexcept;

  DType dtype() const noexcept { return dtype_; }
  const Dims& shape() const noexcept { return shape_; }
  std::int64_t size() const noexcept { return shape_.product(); }
  std::size_t size_in_bytes() const noexcept {
    return static_cast<std::size_t>(size()) * size_of(dtype_);
  }
  void* data() noexcept { return memory_.get(); }
  const void* data() const noexcept { return memory_.get(); }
  /// The elements as an array of T. Throws Error(invalid_argument) if T is not the element type.
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

/// Copies a tensor, at any address, to new memory and converts its elements to another type. A
/// conversion to a float type rounds to nearest even. A conversion of a float to an integer
/// truncates; a value that is NaN or out of range is refused with Error(invalid_argument). A
/// conversion to boolean gives true for every value but 0.
ATTN_API Tensor copy_as(const TensorView& source, DType dtype);
/// Copies a tensor to a tensor of the same shape, both at any address, and converts its elements as
/// copy_as() does. The two must not overlap. Throws Error(invalid_argument) before anything is
/// written if the shapes differ, if a view is not as BasicTensorView says, if either has no data,
/// or if a value does not fit.
ATTN_API void copy_into(const TensorView& source, const MutableTensorView& destination);

}  // namespace attn
