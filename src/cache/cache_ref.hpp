// What a forward does with its cache, whichever kind of cache a CacheRef names. Code above this
// file does not need to know whether keys lie in a contiguous cache, in one sequence of it, in
// pages, or in no cache at all.
#pragma once

#include <attn/kv_cache.hpp>

#include <cstdint>
#include <optional>
#include <utility>

namespace attn::detail {

/// The new tokens of a forward: the same number for each sequence of the batch or, ragged, the
/// tokens offsets[b] to offsets[b + 1] - 1 for sequence b.
struct TokenShape {
  std::int64_t batch;
  std::int64_t seq;                       // of the longest sequence
  const std::int64_t* offsets = nullptr;  // [batch + 1]; null: not ragged
  /// Of ragged tokens: products take all of them at once, which is faster, but the bits of a
  /// sequence then depend on its neighbors.
  bool joined = false;

  bool ragged() const noexcept { return offsets != nullptr; }
  std::int64_t count() const noexcept { return first(batch); }
  /// The number of a sequence's first token among all.
  std::int64_t first(std::int64_t entry) const noexcept {
    return ragged() ? offsets[entry] : entry * seq;
  }
  std::int64_t length(std::int64_t entry) const noexcept { return first(entry + 1) - first(entry); }
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

/// Appends k and v [batch, num_kv_heads, seq, head_dim], or ragged [1, num_kv_heads, tokens,
/// head_dim], to the sequences of the batch: to all, or, if it throws, to none. Keys are rotated by
/// `rope` on their way in. The cache is not absent.
void append(const CacheRef& cache, const TokenShape& tokens, const TensorView& k,
            const TensorView& v, const std::optional<Rope>& rope);

/// One entry of the batch as a batch of its own. Of a paged cache, it names a part of the span that
/// the cache was made with.
CacheRef entry_of(const CacheRef& cache, std::int64_t entry);

/// The call with the cache's keys and values as its k and v. Without a cache the call is unchanged.
AttentionTensors bind(const CacheRef& cache, AttentionTensors tensors);

/// Drops the keys that a forward of such tokens appended. A rolling cache does not get back what
/// they overwrote.
void rollback(const CacheRef& cache, const TokenShape& tokens);
/// Drops the last `count` keys of one entry of the batch.
void rollback_entry(const CacheRef& cache, std::int64_t entry, std::int64_t count);

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
