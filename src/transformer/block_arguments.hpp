// Checks of an attention block's settings and of the arguments of its forwards.
#pragma once

#include <attn/transformer.hpp>

#include "cache/cache_ref.hpp"
#include "transformer/forward_scratch.hpp"

namespace attn::detail {

/// Throws Error(invalid_argument) for settings that no block has.
void check_settings(const AttentionSettings& settings);
/// Checks the options, the slopes and the sinks as attention() does.
void check_options(const AttentionSettings& settings, const AttentionParameters& weights);

/// The tokens of a forward of [batch, seq], or of ragged ones [1, tokens] if the options have
/// q_offsets, which are read into the scratch memory. Throws Error(invalid_argument) for offsets
/// that do not fit.
TokenShape token_shape(std::int64_t batch, std::int64_t seq, const ForwardOptions& options,
                       ForwardScratch::Memory& memory);

/// Checks the mask and kv_lens of a forward. attention() would refuse them as well, but by then
/// keys have been appended to the cache.
void check_visibility(const AttentionSettings& settings, const TokenShape& tokens,
                      const CacheRef& cache, const ForwardOptions& options);

/// The offsets of ragged tokens, i64 [batch + 1].
inline TensorView offsets_view(const TokenShape& tokens) {
  return {tokens.offsets, {tokens.batch + 1}};
}

}  // namespace attn::detail
