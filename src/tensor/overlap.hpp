// Whether strides put two elements of a tensor in the same place.
#pragma once

#include <attn/tensor.hpp>

namespace attn::detail {

/// The strides are within the limits of require_memory(). The answer is exact, except that for
/// three and more interleaved dims the search ends after some thousand steps, without an overlap.
bool elements_overlap(const Dims& shape, const Dims& strides) noexcept;

}  // namespace attn::detail
