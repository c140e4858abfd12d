// Bit patterns that must not reach rows that do not see them.
#pragma once

#include <cstdint>
#include <vector>

#include "support/random.hpp"
#include "support/strided_tensor.hpp"

namespace attn::test {

/// Quiet and signalling NaNs with payloads, NaN of all ones, both infinities, and the largest
/// number. For i8 they are those of its scales.
inline std::vector<std::uint64_t> poisons(DType dtype) {
  switch (dtype) {
    case DType::bf16: return {0x7fc1, 0x7f81, 0xffff, 0x7f80, 0xff80, 0x7f7f};
    case DType::f16: return {0x7e01, 0x7c01, 0xffff, 0x7c00, 0xfc00, 0x7bff};
    default: return {0x7fc00001, 0x7f800001, 0xffffffff, 0x7f800000, 0xff800000, 0x7f7fffff};
  }
}

/// A set of keys of every batch entry and KV head.
class KeySet {
 public:
  KeySet(const Dims& kv_shape, double share, std::uint64_t seed)
      : num_kv_heads_(kv_shape[1]), kv_len_(kv_shape[2]) {
    Random random(seed);
    chosen_.resize(static_cast<std::size_t>(kv_shape[0] * num_kv_heads_ * kv_len_));
    for (auto&& chosen : chosen_) chosen = random.chance(share);
  }
  bool contains(std::int64_t batch, std::int64_t kv_head, std::int64_t key) const {
    return chosen_[static_cast<std::size_t>((batch * num_kv_heads_ + kv_head) * kv_len_ + key)];
  }

 private:
  std::int64_t num_kv_heads_, kv_len_;
  std::vector<bool> chosen_;
};

/// Writes bits into the set's rows of K or V, into all elements of a row or into one; or into
/// scales, of which a row has one.
inline void put(StridedTensor& kv, const KeySet& keys, std::uint64_t bits, bool needs_full_rows) {
  for_each_index(kv.shape(), [&](const Dims& at) {
    const bool here = needs_full_rows || at.rank() == 3 || at[3] == at[2] % kv.shape()[3];
    if (here && keys.contains(at[0], at[1], at[2])) kv.set_bits(at, bits);
  });
}

}  // namespace attn::test
