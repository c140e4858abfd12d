// Checks of dense masks and block masks against the sizes of a call.
#include <attn/error.hpp>

#include <fmt/format.h>

#include <algorithm>

#include "attention/problem.hpp"
#include "tensor/checks.hpp"

namespace attn::detail {
namespace {

void require_block_mask_fits(const BlockMaskSizes& of, const Sizes& sizes) {
  if (of.q_len != sizes.q_len || of.kv_len != sizes.kv_len) {
    reject(fmt::format("block_mask is for q_len {} and kv_len {}; the call has {} and {}", of.q_len,
                       of.kv_len, sizes.q_len, sizes.kv_len));
  }
  if (of.batch != 1 && of.batch != sizes.batch)
    reject(
        fmt::format("block_mask has batch {}; it needs 1 or {}, that of q", of.batch, sizes.batch));
  if (of.num_q_heads != 1 && of.num_q_heads != sizes.num_q_heads) {
    reject(fmt::format("block_mask has num_q_heads {}; it needs 1 or {}, that of q", of.num_q_heads,
                       sizes.num_q_heads));
  }
}

}  // namespace

void require_mask_fits(const TensorView& mask, const Sizes& sizes,
                       std::optional<std::int64_t> tokens) {
  if (mask.dtype != DType::boolean) {
    if (mask.dtype != DType::f32 && mask.dtype != DType::bf16 && mask.dtype != DType::f16) {
      reject(
          fmt::format("mask has type {}; it needs boolean (true = visible), or f32, bf16 or f16 "
                      "(added to the scores)",
                      name_of(mask.dtype)));
    }
  }
  const int rank = mask.rank();
  if (rank < 1 || rank > (tokens ? 3 : 4)) {
    reject(fmt::format("mask has shape {} of rank {}; it needs {}", mask.shape.to_string(), rank,
                       tokens ? "[keys], [tokens, keys] or [num_q_heads, tokens, keys] with "
                                "q_offsets"
                              : "[kv_len], [q_len, kv_len], [num_q_heads, q_len, kv_len] or "
                                "[batch, num_q_heads, q_len, kv_len]"));
  }
  const std::int64_t full[] = {sizes.batch, sizes.num_q_heads, tokens.value_or(sizes.q_len)};
  const char* meaning[] = {"batch, or 1", "num_q_heads, or 1",
                           tokens ? "tokens of q, or 1" : "q_len, or 1"};
  for (int dim = 0; dim < rank - 1; ++dim) {
    const int axis = 4 - rank + dim;
    if (mask.shape[dim] != 1) require_extent("mask", mask, dim, full[axis], meaning[axis]);
  }
  if (mask.shape[rank - 1] > std::max<std::int64_t>(sizes.kv_len, 1)) {
    reject(fmt::format("mask has shape {}: its last dim is {}, but kv_len is {}",
                       mask.shape.to_string(), mask.shape[rank - 1], sizes.kv_len));
  }
}

void check_block_mask(const AttentionTensors& tensors, const Sizes& sizes,
                      const AttentionOptions& options) {
  if (!options.block_mask) return;
  const BlockMask& block_mask = *options.block_mask;
  for (const auto& [name, offsets] : {std::pair{"q_offsets", &tensors.ragged.q_offsets},
                                      std::pair{"kv_offsets", &tensors.ragged.kv_offsets}}) {
    if (offsets->absent()) continue;
    throw Error(ErrorCode::unsupported,
                fmt::format("block_mask is given with {}: sequences of different lengths have no "
                            "common block mask (causal, window and mask_mod work)",
                            name));
  }
  require_block_mask_fits(block_mask.sizes(), sizes);
  const bool of_a_mask = block_mask.stands_for_mask() && !block_mask.stands_for_mask_mod();
  if (of_a_mask && options.mask_keys == MaskKeys::last) {
    reject("block_mask is of a mask whose columns are the first keys, but mask_keys says last");
  }
  const bool decided = block_mask.exact() ||
                       (block_mask.stands_for_mask_mod() && options.mask_mod) ||
                       (block_mask.stands_for_mask() && !tensors.mask.absent());
  if (decided || block_mask.counts().partial == 0) return;
  const char* const decider = !block_mask.stands_for_mask()       ? "mask_mod"
                              : !block_mask.stands_for_mask_mod() ? "mask"
                                                                  : "mask_mod or mask";
  reject(fmt::format("block_mask has {} partial blocks, but {} is missing, which decides there",
                     block_mask.counts().partial, decider));
}

}  // namespace attn::detail
