// f32 tensors of normally distributed numbers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "support/random.hpp"
#include "support/strided_tensor.hpp"

namespace attn::test {

inline StridedTensor normal(const Dims& shape, std::uint64_t seed) {
  StridedTensor tensor(DType::f32, shape);
  Random random(seed);
  std::vector<double> values(static_cast<std::size_t>(shape.product()));
  std::generate(values.begin(), values.end(), [&] { return random.normal(); });
  tensor.assign(values);
  return tensor;
}

}  // namespace attn::test
