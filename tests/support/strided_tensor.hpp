// Tensors in any layout, in memory that shows reads and writes outside their elements.
#pragma once

#include <attn/tensor.hpp>

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace attn::test {

enum class Layout {
  bhsd,         // dense, row-major
  bshd,         // dims 1 and 2 are swapped in memory, as a projection writes its heads
  padded,       // gaps after each row, each head and each batch entry
  strided_dim,  // every second element of the last dim
  reversed,     // every stride negative
};
std::string_view name_of(Layout layout);

/// Calls f(index) for each element's index, in row-major order.
template <class F>
void for_each_index(const Dims& shape, F&& f) {
  Dims index = shape;
  for (int dim = 0; dim < shape.rank(); ++dim) index[dim] = 0;
  for (std::int64_t n = shape.product(); n > 0; --n) {
    f(index);
    for (int dim = shape.rank() - 1; dim >= 0 && ++index[dim] == shape[dim]; --dim) index[dim] = 0;
  }
}

/// The offset of an element from data, in elements.
std::int64_t offset_of(const Dims& strides, const Dims& index);

/// Owns exactly the memory that its view spans, so that the address sanitizer sees every access
/// beyond. All bytes are 0xff at first, a NaN in every float type: gaps poison a result that reads
/// them, and show whether they were written.
class StridedTensor {
 public:
  StridedTensor() = default;
  StridedTensor(DType dtype, const Dims& shape, Layout layout = Layout::bhsd);

  MutableTensorView view() { return {first(), dtype_, shape_, strides_}; }
  TensorView view() const {
    return {const_cast<StridedTensor*>(this)->first(), dtype_, shape_, strides_};
  }
  /// An absent view if the tensor was default-constructed, for optional tensors.
  MutableTensorView view_if_made() { return made_ ? view() : MutableTensorView{}; }
  TensorView view_if_made() const { return made_ ? view() : TensorView{}; }

  const Dims& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  /// Sets all elements, given in row-major order, rounded to the element type.
  void assign(const std::vector<double>& values);
  void set(const Dims& index, double value);
  void set_bits(const Dims& index, std::uint64_t bits);
  /// All elements in row-major order.
  std::vector<double> values() const;
  std::vector<std::uint64_t> bits() const;
  /// Whether no byte between the elements was written.
  bool gaps_untouched() const;
  /// Whether nothing was written at all.
  bool untouched() const;

 private:
  std::byte* first() { return memory_.data() + first_; }
  std::byte* at(const Dims& index);
  const std::byte* at(const Dims& index) const {
    return const_cast<StridedTensor*>(this)->at(index);
  }

  DType dtype_ = DType::f32;
  Dims shape_{0};
  Dims strides_{1};
  std::vector<std::byte> memory_;
  std::int64_t first_ = 0;  // in bytes
  bool made_ = false;
};

}  // namespace attn::test
