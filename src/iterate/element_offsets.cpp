#include "iterate/element_offsets.hpp"

namespace attn::detail {

ElementOffsets::ElementOffsets(const Dims& shape, const Dims& strides) noexcept {
  if (shape.product() == 0) return;  // no element has an offset, and 0 would divide indices
  Dims extents = shape, steps = strides;
  int rank = 0;
  for (int dim = 0; dim < shape.rank(); ++dim) {
    if (shape[dim] == 1) continue;
    if (rank > 0 && steps[rank - 1] == strides[dim] * shape[dim]) {
      extents[rank - 1] *= shape[dim];
      steps[rank - 1] = strides[dim];
    } else {
      extents[rank] = shape[dim];
      steps[rank++] = strides[dim];
    }
  }
  shape_ = Dims(extents.begin(), rank);
  strides_ = Dims(steps.begin(), rank);
}

ElementOffsets::EvenRun ElementOffsets::even_run(std::int64_t first) const noexcept {
  const int last = shape_.rank() - 1;
  if (last < 0) return {.count = 1, .stride = 1};
  const std::int64_t within_last = last == 0 ? first : first % shape_[last];
  return {.count = shape_[last] - within_last, .stride = strides_[last]};
}

}  // namespace attn::detail
