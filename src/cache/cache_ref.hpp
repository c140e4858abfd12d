// What a forward does with its cache, whichever kind of cache a CacheRef names. Code above this
// file does not need to know whether keys lie in a contiguous cache, in one sequence of it, in
// pages, or in no cache at all.
#pragma once

#include <attn/kv_cache.hpp>

#include <cstdint>
#include <optional>
#include <utility>

namespace attn::detail {

/// The new tokens of a forward. Each sequence of the batch gets the same number.
struct TokenShape {
  std::int64_t batch;
  std::int64_t seq;
  std::int64_t count() const noexcept { return batch * seq; }
};

/// The keys and values that a block writes for each token.
struct KvHeads {
  std::int64_t num_kv_heads;
  std::int64_t head_dim;
};

/// The position of a batch entry's next token. It is 0 without a cache.
std::int64_t next_position(const CacheRef& cache, std::int64_t entry);

/// The position of the oldest key that a batch entry's sequence holds, or of its next token if it
/// holds none. It is 0 except in a rolling cache that has overwritten keys.
std::int64_t oldest_position(const CacheRef& cache, std::int64_t entry);

/// The number of keys, in k and v of a bound call, after `tokens` were appended: the capacity of a
/// contiguous cache, whole pages of a paged one, and the new tokens alone without a cache.
std::int64_t kv_len_after(const CacheRef& cache, const TokenShape& tokens);

/// Throws Error(invalid_argument) unless the cache holds such heads, has the batch of the tokens
/// and names no sequence twice, and Error(exhausted) if a contiguous cache has not enough room. A
/// pool of pages is checked when keys are appended.
void check_cache(const CacheRef& cache, const KvHeads& heads, const TokenShape& tokens);

/// Whether appending to one of the two changes keys of the other.
bool shares_keys(const CacheRef& a, const CacheRef& b);

/// Appends k and v [batch, num_kv_heads, seq, head_dim] to the sequences of the batch: to all, or,
/// if it throws, to none. Keys are rotated by `rope` on their way in. The cache is not absent.
void append(const CacheRef& cache, const TensorView& k, const TensorView& v,
            const std::optional<Rope>& rope);

/// The call with the cache's keys and values as its k and v. Without a cache the call is unchanged.
AttentionTensors bind(const CacheRef& cache, AttentionTensors tensors);

/// Drops the keys that a forward of such tokens appended. A rolling cache does not get back what
/// they overwrote.
void rollback(const CacheRef& cache, const TokenShape& tokens);

/// Calls f(), the part of a forward that follows its append. If f throws, the appended keys are
/// dropped before the exception goes on.
template <class F>
void with_rollback(const CacheRef& cache, const TokenShape& tokens, F&& f) {
  try {
    std::forward<F>(f)();
  } catch (...) {
    rollback(cache, tokens);
    throw;
  }
}

}  // namespace attn::detail
