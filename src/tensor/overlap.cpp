// Two elements lie in the same place if steps along the dims, less of each than its extent and of
// either sign, lead from one to the other and cancel. Usually every stride exceeds what all smaller
// ones can reach together, so that nothing cancels. Otherwise a search decides.
#include "tensor/overlap.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>

#include "tensor/rounding.hpp"

namespace attn::detail {
namespace {

/// Whether every stride exceeds what the dims after it reach together, as in row-major order.
bool nested_in_order(const Dims& shape, const Dims& strides) noexcept {
  std::int64_t span = 0;
  for (int dim = shape.rank() - 1; dim >= 0; --dim) {
    if (shape[dim] == 1) continue;
    const std::int64_t stride = std::abs(strides[dim]);
    if (stride <= span) return false;
    span += (shape[dim] - 1) * stride;
  }
  return true;
}

/// The dims of more than one element, in the order of their strides.
class SortedDims {
 public:
  SortedDims(const Dims& shape, const Dims& strides) noexcept {
    for (int dim = 0; dim < shape.rank(); ++dim) {
      if (shape[dim] > 1) insert({std::abs(strides[dim]), shape[dim] - 1, 0});
    }
    std::int64_t span = 0;
    for (std::size_t n = 0; n < count_; ++n) {
      dims_[n].span_before = span;
      span += dims_[n].most_steps * dims_[n].stride;
    }
  }

  /// Whether steps cancel. The last dim with any may have positive ones: others are a mirror image.
  bool any_cancel() noexcept {
    for (std::size_t n = 0; n < count_; ++n) {
      const Dim& dim = dims_[n];
      if (dim.stride == 0) return true;
      const std::int64_t most = std::min(dim.most_steps, dim.span_before / dim.stride);
      for (std::int64_t steps = 1; steps <= most && steps_left_ > 0; ++steps) {
        if (reached(n, steps * dim.stride)) return true;
      }
    }
    return false;
  }

 private:
  struct Dim {
    std::int64_t stride;
    std::int64_t most_steps;
    std::int64_t span_before;  // what all dims before it reach together
  };

  /// Few dims are sorted fastest where they are inserted.
  void insert(const Dim& dim) noexcept {
    std::size_t at = count_++;
    for (; at > 0 && dims_[at - 1].stride > dim.stride; --at) dims_[at] = dims_[at - 1];
    dims_[at] = dim;
  }

  /// Whether steps along the first `count` dims lead this far.
  bool reached(std::size_t count, std::int64_t distance) noexcept {
    if (count == 0 || --steps_left_ <= 0) return count == 0 && distance == 0;
    const Dim& dim = dims_[count - 1];
    const std::int64_t away = std::abs(distance), span = dim.span_before;
    const std::int64_t least = away > span ? divide_up(away - span, dim.stride)
                                           : -std::min(dim.most_steps, (span - away) / dim.stride);
    const std::int64_t most = std::min(dim.most_steps, (away + span) / dim.stride);
    for (std::int64_t steps = least; steps <= most && steps_left_ > 0; ++steps) {
      if (reached(count - 1, away - steps * dim.stride)) return true;
    }
    return false;
  }

  std::array<Dim, Dims::max_rank> dims_{};
  std::size_t count_ = 0;
  std::int64_t steps_left_ = 10000;
};

}  // namespace

bool elements_overlap(const Dims& shape, const Dims& strides) noexcept {
  if (nested_in_order(shape, strides) || shape.product() == 0) return false;
  return SortedDims(shape, strides).any_cancel();
}

}  // namespace attn::detail
