// Slices of tensors along one dim, and a parallel loop that presents them as dense rows of floats,
// whatever the tensors' strides and types are.
//
// A slice is the elements along the dim at one index of all other dims. Slices are numbered in the
// row-major order of the other dims.
#pragma once

#include <attn/tensor.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <type_traits>

#include "iterate/element_offsets.hpp"
#include "iterate/execution.hpp"
#include "iterate/row.hpp"
#include "kernels/kernels.hpp"
#include "tensor/indexing.hpp"

namespace attn::detail {

/// The product of all extents but that of `dim`.
std::int64_t number_of_slices(const Dims& shape, int dim) noexcept;

/// The slices of one tensor, each as a Row in place.
class SliceRows {
 public:
  SliceRows(const TensorView& tensor, int dim) noexcept
      : tensor_(tensor),
        stride_(tensor.strides[dim]),
        offsets_(remove_dim(tensor.shape, dim), remove_dim(tensor.strides, dim)) {}

  Row operator[](std::int64_t slice) const noexcept {
    return {address_at(tensor_, offsets_.offset(slice)), tensor_.dtype, stride_};
  }
  bool absent() const noexcept { return tensor_.data == nullptr; }
  bool dense_f32() const noexcept { return tensor_.dtype == DType::f32 && stride_ == 1; }
  /// Between the elements of a slice.
  std::int64_t stride() const noexcept { return stride_; }
  /// Slices from `first` on whose first elements are evenly spaced.
  ElementOffsets::EvenRun even_run(std::int64_t first) const noexcept {
    return offsets_.even_run(first);
  }

 private:
  TensorView tensor_;
  std::int64_t stride_;
  ElementOffsets offsets_;
};

/// A tensor with one value for each slice. T is its element type, const for an input.
template <class T>
class PerSlice {
  using Void = std::conditional_t<std::is_const_v<T>, const void, void>;

 public:
  explicit PerSlice(const BasicTensorView<Void>& tensor) noexcept
      : data_(static_cast<T*>(tensor.data)), offsets_(tensor.shape, tensor.strides) {}
  /// False for an absent tensor, which has no values.
  explicit operator bool() const noexcept { return data_ != nullptr; }
  T& operator[](std::int64_t slice) const noexcept { return data_[offsets_.offset(slice)]; }

 private:
  T* data_;
  ElementOffsets offsets_;
};

/// A slice of each tensor as dense floats. An output may be the memory of an input.
struct Slice {
  std::int64_t index;
  std::int64_t extent;  // elements
  std::array<const float*, 3> in;
  std::array<float*, 2> out;
  float* scratch;  // SliceTensors::scratch floats, 64-byte aligned
};

/// A few neighboring slices whose rows are evenly spaced in each tensor: at most
/// kernels::rows_at_once, and as many as the L1 cache can hold.
struct SliceGroup {
  std::int64_t first;  // index of the first slice
  std::int64_t count;
  std::array<kernels::FloatRows, 3> in;
  std::array<kernels::FloatRowsOut, 2> out;
  float* scratch;  // shared by the slices

  /// Slice first + n.
  Slice slice(std::int64_t n) const noexcept;
};

/// The tensors of a loop: up to three inputs and two outputs, f32, bf16 or f16, all of one shape.
/// An absent tensor has null pointers in a Slice.
struct SliceTensors {
  std::array<TensorView, 3> in{};
  std::array<MutableTensorView, 2> out{};
  int dim = 0;               // counted from the first
  std::int64_t scratch = 0;  // floats that a call needs
};

/// Calls f(slice) for each slice, from several threads at once, and then writes its outputs to the
/// tensors. All memory is allocated before the first call. The first exception that f throws ends
/// the loop and is rethrown.
void for_each_slice(const SliceTensors& tensors, const ResolvedExecution& execution,
                    const std::function<void(const Slice&)>& f);

/// The same loop, a group of slices for each call.
void for_each_slice_group(const SliceTensors& tensors, const ResolvedExecution& execution,
                          const std::function<void(const SliceGroup&)>& f);

}  // namespace attn::detail
