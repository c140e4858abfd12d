// Values that are not finite, in the unfused baseline. The product P V multiplies a hidden value by
// a probability of 0, and 0 * NaN is NaN. Therefore the product reads a copy of V with 0 in place
// of such values, and each row adds separately those that its visible keys have.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "oracle/unfused_call.hpp"

namespace attn::detail {

struct SeparatedValues {
  std::vector<std::int64_t> keys;      // ascending, with a value that is not finite; numbered as in
                                       // [batch, num_kv_heads, kv_len]
  std::vector<float> finite;           // V with 0 in place of what is not finite
  std::vector<float> non_finite_sums;  // what is to be added to the product, in the shape of O
};

/// Empty if all of V is finite.
std::optional<SeparatedValues> separate_values(const UnfusedCall& call);

/// Adds the values of one row's visible keys that are not finite to the row's sum. `scores` are
/// the row's masked scores. `probabilities` may be null for softmax: its probabilities are
/// positive, and a positive factor changes neither inf nor NaN.
void add_non_finite_values(const UnfusedCall& call, std::int64_t row, const float* scores,
                           const float* probabilities, SeparatedValues& separated);

}  // namespace attn::detail
