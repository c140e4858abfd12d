// Random tensors that are the same on every machine and for any order of drawing.
#pragma once

#include <attn/tensor.hpp>

#include <cstdint>

namespace attn::apps {

/// A tensor of standard normal values. Value n depends on seed and n alone: a counter goes through
/// SplitMix64's mixing function (Steele, Lea and Flood 2014), and pairs of results through Box and
/// Muller's transform in double.
Tensor normal_tensor(const Dims& shape, DType dtype, std::uint64_t seed);

}  // namespace attn::apps
