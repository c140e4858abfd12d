#include "transformer/block_arguments.hpp"

#include <attn/error.hpp>

#include <algorithm>

#include "attention/problem.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/indexing.hpp"
#include "transformer/norm.hpp"

namespace attn::detail {
namespace {

MutableTensorView without_data(DType dtype, const Dims& shape) {
  return {static_cast<void*>(nullptr), dtype, shape};
}

void check_padding(const TokenShape& tokens, const CacheRef& cache, const TensorView& kv_lens) {
  if (!cache.absent()) {
    reject("kv_lens is given; it needs to be absent where a cache knows its lengths");
  }
  require_data("kv_lens", kv_lens);
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    const std::int64_t length = integer_at(kv_lens, entry);
    if (length < 0 || length > tokens.seq) {
      reject(fmt::format("kv_lens[{}] is {}; it needs to lie in 0..{} (seq of the tokens)", entry,
                         length, tokens.seq));
    }
  }
}

/// The shapes of a forward's attention call.
AttentionTensors shapes_of(const AttentionSettings& settings, const TokenShape& tokens,
                           const CacheRef& cache) {
  const std::int64_t heads = settings.num_q_heads, kv_heads = settings.num_kv_heads,
                     dim = settings.head_dim;
  AttentionTensors shapes;
  const auto set = [&](const Dims& q, const Dims& kv) {
    shapes.q = shapes.out = without_data(settings.dtype, q);
    shapes.k = shapes.v = without_data(settings.dtype, kv);
  };
  const Dims cached{tokens.batch, kv_heads, kv_len_after(cache, tokens), dim};
  if (!tokens.ragged()) {
    set({tokens.batch, heads, tokens.seq, dim}, cached);
    return shapes;
  }
  set({tokens.count(), heads, dim}, cached);
  shapes.ragged = {.q_offsets = offsets_view(tokens), .max_q_len = tokens.seq};
  if (!cache.absent()) return shapes;
  shapes.k = shapes.v = without_data(settings.dtype, {tokens.count(), kv_heads, dim});
  shapes.ragged.kv_offsets = shapes.ragged.q_offsets;
  shapes.ragged.max_kv_len = tokens.seq;
  return shapes;
}

}  // namespace

void check_settings(const AttentionSettings& settings) {
  require_positive("hidden", settings.hidden);
  require_positive("num_kv_heads", settings.num_kv_heads);
  require_positive("num_q_heads", settings.num_q_heads);
  require_positive("head_dim", settings.head_dim);
  require_positive("max_positions", settings.max_positions);
  check_norm("qk_norm", settings.qk_norm);
  require_shape("q.weight", {settings.num_q_heads, settings.head_dim, settings.hidden});
  if (settings.num_q_heads % settings.num_kv_heads != 0) {
    reject(fmt::format("num_q_heads is {}; it needs to be a multiple of num_kv_heads = {}",
                       settings.num_q_heads, settings.num_kv_heads));
  }
  if (settings.dtype != DType::f32 && settings.dtype != DType::bf16) {
    reject(fmt::format("dtype is {}; it needs to be f32 or bf16", name_of(settings.dtype)));
  }
}

// Their validity does not depend on the number of tokens, so a call of one token without data is
// checked.
void check_options(const AttentionSettings& settings, const AttentionParameters& weights) {
  if (settings.options.block_mask) {
    throw Error(ErrorCode::unsupported,
                "block_mask is given in the options of a block: each forward has other numbers of "
                "queries and keys (the mask of a forward, window and mask_mod work)");
  }
  AttentionTensors one = shapes_of(settings, {1, 1}, {});
  one.alibi_slopes = weights.alibi_slopes;
  one.sinks = weights.sinks;
  validate(one, settings.options, {});
  if (!weights.alibi_slopes.absent()) require_data("alibi_slopes", weights.alibi_slopes);
  if (!weights.sinks.absent()) require_data("sinks", weights.sinks);
}

TokenShape token_shape(std::int64_t batch, std::int64_t seq, const ForwardOptions& options,
                       ForwardScratch::Memory& memory) {
  const TensorView& given = options.q_offsets;
  if (given.absent()) return {batch, seq};
  require_rank("q_offsets", given, 1, "[batch + 1]");
  require_integers("q_offsets", given);
  require_data("q_offsets", given);
  if (!options.kv_lens.absent())
    reject("kv_lens is given; it needs to be absent with q_offsets, which say the lengths");
  if (batch != 1) {
    reject(
        fmt::format("the tokens are a batch of {}; with q_offsets they need to be one row of "
                    "all sequences, [1, tokens]",
                    batch));
  }
  if (given.shape[0] < 1) reject("q_offsets is empty; it needs batch + 1 elements");
  std::vector<std::int64_t>& offsets = memory.offsets;
  offsets.clear();
  std::int64_t longest = 0;
  for (std::int64_t n = 0; n < given.shape[0]; ++n) {
    const std::int64_t offset = integer_at(given, n), least = n == 0 ? 0 : offsets.back();
    if (offset < least || (n == 0 && offset > 0) || offset > seq) {
      reject(fmt::format(
          "q_offsets[{}] is {}; it needs {}", n, offset,
          n == 0 ? "0" : fmt::format("{} or more, and at most the {} tokens", least, seq)));
    }
    longest = std::max(longest, offset - least);
    offsets.push_back(offset);
  }
  if (offsets.back() != seq) {
    reject(fmt::format("q_offsets ends with {}; it needs the number of tokens, {}", offsets.back(),
                       seq));
  }
  return {std::ssize(offsets) - 1, longest, offsets.data()};
}

void check_visibility(const AttentionSettings& settings, const TokenShape& tokens,
                      const CacheRef& cache, const ForwardOptions& options) {
  if (options.mask.absent() && options.kv_lens.absent()) return;
  AttentionTensors shapes = shapes_of(settings, tokens, cache);
  shapes.mask = options.mask;
  shapes.kv_lens = options.kv_lens;
  validate(shapes, settings.options, {});
  if (!options.mask.absent()) require_data("mask", options.mask);
  if (!options.kv_lens.absent()) check_padding(tokens, cache, options.kv_lens);
}

}  // namespace attn::detail
