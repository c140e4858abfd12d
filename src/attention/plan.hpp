// Policy: how a call is cut into blocks and work items. Integers in, integers out, no tensors.
#pragma once

#include <cstdint>

#include "attention/problem.hpp"
#include "kernels/kernels.hpp"

namespace attn::detail {

/// The rows of a KV head are its queries times its group of heads, position-major: row = q_index *
/// group_size + member. Neighboring rows then see nearly the same keys and share each packed key,
/// for any group size and q_len.
struct Blocking {
  std::int64_t rows = 0;     // of a KV head
  std::int64_t q_block = 0;  // rows of a work item
  std::int64_t kv_block =
      0;  // keys that a work item takes at a time, a multiple of the panel width
  std::int64_t q_blocks = 0;  // per KV head
  std::int64_t kv_blocks = 0;
  std::int64_t vnni_factor = 1;  // operands of a multiplication in 32 bits
  std::int64_t key_depth = 0;    // of a query's or key's head_dim
  std::int64_t value_width = 0;  // v_head_dim, up to whole vectors
  std::int64_t value_panels = 0;
  std::int64_t value_panel_width = 0;  // columns of V in a panel

  std::int64_t value_depth() const noexcept {
    return kv_block / vnni_factor;
  }  // of a block's keys, as the depth of P V
};

/// kv_block decides the order of sums, so it depends on the sizes of one head alone, or bits would
/// depend on the rest of the batch. q_block decides who computes a row, and with fixed_q_block (a
/// matmul primitive's rows) the same holds for it.
Blocking choose_blocking(const Sizes& sizes, const kernels::Kernels& kernels,
                         std::int64_t vnni_factor, int num_threads, bool fixed_q_block);

/// As many of num_threads as have enough to do to be worth waking: at least 1.
int useful_threads(const Sizes& sizes, int num_threads);

/// Rows of a KV head up to which packing its keys and values does not pay: they are multiplied
/// where they lie.
std::int64_t most_short_rows(DType kv_type);

/// The same for short rows, whose operands are floats whatever K and V are. A block of rows is all
/// of a head's.
Blocking choose_short_blocking(const Sizes& sizes, const kernels::Kernels& kernels, DType kv_type);

/// Short rows against many keys are split by keys, so that there is work for all threads; the parts
/// are merged in order. As bits depend on it, it follows from one head's sizes alone.
struct Splits {
  std::int64_t count;
  std::int64_t keys;  // of each but the last
};
Splits choose_splits(std::int64_t visible_keys, const Sizes& sizes);
/// No head with up to so many keys has more splits.
std::int64_t most_splits(std::int64_t keys, const Sizes& sizes);

}  // namespace attn::detail
