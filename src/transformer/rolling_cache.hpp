// What a forward asks of a rolling cache, which overwrites its oldest keys. A token may need keys
// that later tokens of the same forward overwrite. Tokens are then appended and attended to in
// parts, each of which overwrites no key that it needs.
#pragma once

#include <attn/attention.hpp>

#include <cstdint>

#include "cache/cache_ref.hpp"

namespace attn::detail {

/// Whether the options name the position of the first query, instead of bottom-right.
bool names_position(const AttentionOptions& options) noexcept;

/// Throws Error(exhausted) if a token would not find all keys of its window, however the tokens are
/// divided, or, where they cannot be divided, with all of them at once. Without a window to the
/// left, a token needs as many keys as the cache holds. Other caches are not checked.
void check_rolling(const CacheRef& cache, const TokenShape& tokens, const AttentionOptions& options,
                   bool has_mask);

/// How many of the tokens of each sequence to append next, at least 1. The tokens have been
/// checked.
std::int64_t tokens_at_once(const CacheRef& cache, const TokenShape& tokens,
                            const AttentionOptions& options, bool has_mask);

}  // namespace attn::detail
