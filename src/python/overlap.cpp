// A byte of a lies at a.data + sum of index * stride over the dims of a, the bytes of an element
// being one more dim, and so does a byte of b. Both are the same byte if
//
//   sum over the dims of both of  index * step = b.data - a.data,   0 <= index < extent
//
// where the steps of b are taken backward. The search tries the indices of the largest step first,
// and only those for which the smaller steps can make up the rest.
#include "overlap.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

namespace attn::python {
namespace {

class Search {
 public:
  /// Adds the dims of a tensor, forward (sign 1) or backward (-1).
  void add(const TensorView& tensor, std::int64_t sign) {
    const auto size = static_cast<std::int64_t>(size_of(tensor.dtype));
    add_dim(sign, size);
    for (int dim = 0; dim < tensor.rank(); ++dim)
      add_dim(sign * tensor.strides[dim] * size, tensor.shape[dim]);
  }

  bool reaches(std::int64_t distance) {
    std::sort(dims_.begin(), dims_.begin() + count_,
              [](const Dim& x, const Dim& y) { return std::abs(x.step) > std::abs(y.step); });
    std::int64_t low = 0, high = 0;
    for (std::ptrdiff_t n = count_ - 1; n >= 0; --n) {
      Dim& dim = dims_[static_cast<std::size_t>(n)];
      dim.low_after = low;
      dim.high_after = high;
      (dim.step < 0 ? low : high) += dim.step * (dim.extent - 1);
    }
    return reaches_from(0, distance);
  }

 private:
  struct Dim {
    std::int64_t step, extent;
    std::int64_t low_after, high_after;  // what the dims after it reach
  };

  void add_dim(std::int64_t step, std::int64_t extent) {
    if (extent > 1 && step != 0) dims_[static_cast<std::size_t>(count_++)] = {step, extent, 0, 0};
  }

  bool reaches_from(std::ptrdiff_t n, std::int64_t distance) {
    if (n == count_) return distance == 0;
    const Dim& dim = dims_[static_cast<std::size_t>(n)];
    const std::int64_t size = std::abs(dim.step);
    const std::int64_t rest = dim.step > 0 ? distance : -distance;
    const std::int64_t low = dim.step > 0 ? dim.low_after : -dim.high_after;
    const std::int64_t high = dim.step > 0 ? dim.high_after : -dim.low_after;
    // index * size lies in rest - high .. rest - low.
    const std::int64_t from = rest - high <= 0 ? 0 : (rest - high + size - 1) / size;
    const std::int64_t to = rest - low < 0 ? -1 : std::min(dim.extent - 1, (rest - low) / size);
    for (std::int64_t index = from; index <= to && steps_left_-- > 0; ++index) {
      if (reaches_from(n + 1, distance - index * dim.step)) return true;
    }
    return false;
  }

  std::array<Dim, 2 * (Dims::max_rank + 1)> dims_{};
  std::ptrdiff_t count_ = 0;
  int steps_left_ = 10000;
};

/// Whether sums of what its strides reach fit 64 bits. Calls refuse other tensors.
bool measurable(const TensorView& tensor) noexcept {
  constexpr std::int64_t most = std::int64_t{1} << 50;
  for (int dim = 0; dim < tensor.rank(); ++dim) {
    const double reach =
        static_cast<double>(tensor.shape[dim]) * static_cast<double>(tensor.strides[dim]);
    if (!(std::abs(reach) < static_cast<double>(most))) return false;
  }
  return true;
}

}  // namespace

bool share_memory(const TensorView& a, const TensorView& b) noexcept {
  if (a.size() == 0 || b.size() == 0 || !measurable(a) || !measurable(b)) return false;
  Search search;
  search.add(a, 1);
  search.add(b, -1);
  return search.reaches(static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(b.data) -
                                                  reinterpret_cast<std::uintptr_t>(a.data)));
}

}  // namespace attn::python
