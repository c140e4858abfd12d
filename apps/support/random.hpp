// Random tensors that are the same on every machine and for any order of drawing.
#pragma once

#include <attn/tensor.hpp>

#include <cstdint>

namespace attn::apps {

/// A tensor of standard normal values. Value n depends on seed and n alone: SplitMix64's mixing
/// function (Steele, Lea and Flood 2014) is applied to a counter, and the Box-Muller transform, in
/// double, to pairs of the results.
Tensor normal_tensor(const Dims& shape, DType dtype, std::uint64_t seed);

}  // namespace attn::apps
