// Tensors cut along one dim into slices, and a loop over the slices on threads that hands them out
// as dense rows of floats, whatever the strides and types are.
#pragma once

#include <attn/execution.hpp>
#include <attn/tensor.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "kernels/kernels.hpp"
#include "kernels/rows.hpp"

namespace attn::detail {

/// The elements of a tensor numbered in row-major order, and where each lies. Dims that lie as one
/// are taken as one.
class ElementOffsets {
 public:
  ElementOffsets(const Dims& shape, const Dims& strides) noexcept;

  /// In elements from the tensor's first.
  std::int64_t offset(std::int64_t index) const noexcept {
    std::int64_t offset = 0;
    for (int dim = shape_.rank() - 1; dim > 0; --dim) {
      offset += index % shape_[dim] * strides_[dim];
      index /= shape_[dim];
    }
    return shape_.rank() == 0 ? 0 : offset + index * strides_[0];
  }
  /// How many elements from `first` on lie evenly for certain, and the stride between them.
  std::int64_t even_from(std::int64_t first, std::int64_t& stride) const noexcept;

 private:
  Dims shape_, strides_;
};

/// One value for each slice: a tensor of the shape without `dim`, or any other tensor, element by
/// element.
template <class T, class Void>
class PerSlice {
 public:
  explicit PerSlice(const BasicTensorView<Void>& tensor) noexcept
      : data_(static_cast<T*>(tensor.data)), positions_(tensor.shape, tensor.strides) {}
  /// An absent tensor has no values to be had.
  explicit operator bool() const noexcept { return data_ != nullptr; }
  T& operator[](std::int64_t index) const noexcept { return data_[positions_.offset(index)]; }

 private:
  T* data_;
  ElementOffsets positions_;
};

/// One number for each slice, f32, bf16 or f16.
class PerSliceFloat {
 public:
  explicit PerSliceFloat(const TensorView& tensor) noexcept
      : tensor_(tensor), positions_(tensor.shape, tensor.strides) {}
  float read(std::int64_t index, const kernels::Kernels& kernels) const noexcept;
  /// Rounds to the tensor's type; for tensors that may be written.
  void write(std::int64_t index, float value, const kernels::Kernels& kernels) const noexcept;

 private:
  Row row(std::int64_t index) const noexcept;

  TensorView tensor_;
  ElementOffsets positions_;
};

/// A slice as a function sees it: what it reads, and where it writes. An output may be the memory
/// of an input.
struct Slice {
  std::int64_t index;   // in row-major order of the other dims
  std::int64_t extent;  // elements
  std::array<const float*, 3> in;
  std::array<float*, 2> out;
  float* scratch;  // as many floats as were asked for, 64-byte aligned
};

/// A few neighboring slices, at most kernels::rows_at_once and as many as L1 keeps, whose rows are
/// evenly spaced in each tensor.
struct Slices {
  std::int64_t first;  // index
  std::int64_t count;
  std::array<kernels::FloatRows, 3> in;
  std::array<kernels::FloatRowsOut, 2> out;
  float* scratch;  // one for all

  Slice slice(std::int64_t n) const noexcept;
};

/// Tensors of one shape: up to three inputs, up to two outputs, each f32, bf16 or f16. Absent ones
/// are null in a Slice.
struct SliceTensors {
  std::array<TensorView, 3> in{};
  std::array<MutableTensorView, 2> out{};
  int dim = 0;               // not negative
  std::int64_t scratch = 0;  // floats
};

/// An execution with its defaults filled in.
struct ResolvedExecution {
  const kernels::Kernels& kernels;
  int num_threads;
};
/// Throws Error for an ISA that is not there or less than one thread.
ResolvedExecution resolve(const Execution& execution);

/// Threads that are worth waking for so many elements of arithmetic as heavy as an exponential.
int threads_for(std::int64_t elements, int num_threads) noexcept;

/// Calls f for each slice, from several threads at once; outputs are written behind it. The first
/// exception that leaves f ends the loop and reaches the caller. Memory is taken before the first
/// call.
void for_each_slice(const SliceTensors& tensors, const ResolvedExecution& resources,
                    const std::function<void(const Slice&)>& f);

/// The same, a few slices at a time.
void for_each_slices(const SliceTensors& tensors, const ResolvedExecution& resources,
                     const std::function<void(const Slices&)>& f);

/// The product of the extents but for dim.
std::int64_t number_of_slices(const Dims& shape, int dim) noexcept;
/// The dims but for one.
Dims remove_dim(const Dims& dims, int dim) noexcept;

}  // namespace attn::detail
