// Attention states for tests: parts with random values, and how far merging them may be off.
#pragma once

#include <attn/state.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/case.hpp"
#include "support/random.hpp"

namespace attn::test {

inline constexpr double eps = std::numeric_limits<float>::epsilon();
inline constexpr double infinity = std::numeric_limits<double>::infinity();
inline constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};
inline constexpr Layout layouts[] = {Layout::bhsd, Layout::bshd, Layout::padded,
                                     Layout::strided_dim, Layout::reversed};

inline Dims without_last(const Dims& shape) { return {shape.begin(), shape.rank() - 1}; }

inline Outputs poisoned_part(DType dtype, const Dims& shape, Layout layout = Layout::bhsd) {
  return {StridedTensor(dtype, shape, layout),
          StridedTensor(DType::f32, without_last(shape), layout)};
}

inline AttentionState state_of(Outputs& part) { return {part.out.view(), part.lse.view()}; }
inline ConstAttentionState state_of(const Outputs& part) {
  return {part.out.view(), part.lse.view()};
}

/// Normal values. Some rows have no keys: their lse is -inf, and their out is left poisoned.
inline Outputs random_part(Random& random, DType dtype, const Dims& shape, double empty_rows = 0.3,
                           Layout layout = Layout::bhsd) {
  Outputs part = poisoned_part(dtype, shape, layout);
  for_each_index(part.lse.shape(), [&](const Dims& row) {
    const bool empty = random.chance(empty_rows);
    part.lse.set(row, empty ? -infinity : 3 * random.normal());
    std::vector<std::int64_t> index(row.begin(), row.end());
    index.push_back(0);
    for (std::int64_t& d = index.back(); d < shape[shape.rank() - 1] && !empty; ++d) {
      part.out.set({index.data(), shape.rank()}, random.normal());
    }
  });
  return part;
}

inline StridedTensor copy_of(const TensorView& view) {
  StridedTensor copy(view.dtype, view.shape);
  copy_into(view, copy.view());
  return copy;
}

inline double largest_finite(const std::vector<double>& values) {
  double largest = 0;
  for (const double value : values) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  return largest;
}

/// The largest relative error of rounding to this type.
inline double rounding(DType dtype) {
  return dtype == DType::bf16 ? 0x1p-8 : dtype == DType::f16 ? 0x1p-11 : eps / 2;
}

/// Bounds the error of a number of merges, compared with the exact result for all parts.
/// Each merge rounds its shares, its products and its sum once, which makes 3/2 eps max|O|, and
/// rounds the sum to its type. lse is rounded as well: if two lse are off by t each, their shares
/// change by no more than t, and after n merges t is n eps/2 max|lse|.
struct MergeTolerance {
  double out, lse;

  MergeTolerance(std::size_t merges, DType coarsest, double largest_out, double largest_lse) {
    const auto count = static_cast<double>(merges);
    lse = count * eps / 2 * std::max(1.0, largest_lse);
    out = count * (1.5 * eps + rounding(coarsest) + lse) * largest_out +
          (coarsest == DType::f16 ? count * 0x1p-25 : 0);
  }
};

}  // namespace attn::test
