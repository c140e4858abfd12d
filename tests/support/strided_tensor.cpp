#include "support/strided_tensor.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace attn::test {
namespace {

constexpr std::byte poison{0xff};
constexpr std::int64_t gap = 3;

Dims strides_in(Layout layout, const Dims& shape) {
  Dims order = shape;
  for (int dim = 0; dim < shape.rank(); ++dim) order[dim] = dim;
  if (layout == Layout::bshd && shape.rank() >= 3) std::swap(order[1], order[2]);

  Dims strides = shape;
  std::int64_t step = layout == Layout::strided_dim ? 2 : 1;
  for (int place = shape.rank() - 1; place >= 0; --place) {
    const int dim = static_cast<int>(order[place]);
    strides[dim] = layout == Layout::reversed ? -step : step;
    step *= shape[dim] + (layout == Layout::padded ? gap : 0);
  }
  return strides;
}

}  // namespace

std::string_view name_of(Layout layout) {
  constexpr std::string_view names[] = {"bhsd", "bshd", "padded", "strided_dim", "reversed"};
  return names[static_cast<std::size_t>(layout)];
}

std::int64_t offset_of(const Dims& strides, const Dims& index) {
  std::int64_t offset = 0;
  for (int dim = 0; dim < index.rank(); ++dim) offset += index[dim] * strides[dim];
  return offset;
}

StridedTensor::StridedTensor(DType dtype, const Dims& shape, Layout layout)
    : dtype_(dtype), shape_(shape), strides_(strides_in(layout, shape)), made_(true) {
  if (shape.product() == 0) return;
  std::int64_t lowest = 0, highest = 0;
  for (int dim = 0; dim < shape.rank(); ++dim) {
    const std::int64_t reach = (shape[dim] - 1) * strides_[dim];
    (reach < 0 ? lowest : highest) += reach;
  }
  const auto element = static_cast<std::int64_t>(size_of(dtype));
  first_ = -lowest * element;
  memory_.assign(static_cast<std::size_t>((highest - lowest + 1) * element), poison);
}

std::byte* StridedTensor::at(const Dims& index) {
  return first() + offset_of(strides_, index) * static_cast<std::int64_t>(size_of(dtype_));
}

void StridedTensor::assign(const std::vector<double>& values) {
  if (!values.empty()) copy_into(TensorView(values.data(), shape_), view());
}

void StridedTensor::set(const Dims& index, double value) {
  copy_into(TensorView(&value, {1}), {at(index), dtype_, {1}});
}

void StridedTensor::set_bits(const Dims& index, std::uint64_t bits) {
  std::memcpy(at(index), &bits, size_of(dtype_));
}

std::vector<double> StridedTensor::values() const {
  std::vector<double> values(static_cast<std::size_t>(shape_.product()));
  if (!values.empty()) copy_into(view(), {values.data(), shape_});
  return values;
}

std::vector<std::uint64_t> StridedTensor::bits() const {
  std::vector<std::uint64_t> all;
  all.reserve(static_cast<std::size_t>(shape_.product()));
  for_each_index(shape_, [&](const Dims& index) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, at(index), size_of(dtype_));
    all.push_back(bits);
  });
  return all;
}

bool StridedTensor::gaps_untouched() const {
  StridedTensor blank = *this;
  for_each_index(shape_,
                 [&](const Dims& index) { std::fill_n(blank.at(index), size_of(dtype_), poison); });
  return blank.untouched();
}

bool StridedTensor::untouched() const {
  return std::all_of(memory_.begin(), memory_.end(), [](std::byte byte) { return byte == poison; });
}

}  // namespace attn::test
