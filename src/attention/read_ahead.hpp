// Memory that is asked for while a tile is multiplied, so that short sequences do not wait for it: a tile of them takes no
// longer than a few cache misses do.
#pragma once

#include <attn/tensor.hpp>

#include <array>
#include <cstdint>

#include "attention/rows.hpp"
#include "kernels/kernels.hpp"

namespace attn {

class ReadAhead {
 public:
  void clear() noexcept { count_ = 0; }

  /// Adds rows first <= row < last of a [batch, head, row, dim] tensor, if their elements lie side by side.
  void add(const TensorView& tensor, std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t last) noexcept {
    if (first >= last || tensor.strides[3] != 1 || count_ == walks_.size()) return;
    const auto size = static_cast<std::int64_t>(size_of(tensor.dtype));
    kernels::LineWalk& walk = walks_[count_];
    walk = {.row = row_of(tensor, batch, head, first).data,
            .row_stride = tensor.strides[2] * size,
            .row_bytes = tensor.shape[3] * size,
            .rows = last - first};
    if (count_ > 0) walks_[count_ - 1].next = &walk;
    ++count_;
  }

  /// Null if there is nothing to ask for.
  kernels::LineWalk* walk() noexcept { return count_ == 0 ? nullptr : walks_.data(); }

 private:
  std::array<kernels::LineWalk, 5> walks_;
  std::size_t count_ = 0;
};

}  // namespace attn
