#include "transformer/rolling_cache.hpp"

#include <attn/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <string>

namespace attn::detail {
namespace {

bool is_rolling(const CacheRef& cache) {
  return cache.contiguous() != nullptr && cache.contiguous()->settings().rolling;
}

/// Whether attention to the keys before and among some tokens is the same if the tokens after them
/// have not been appended yet. It is not where a token sees later ones, and where keys are counted
/// from the oldest one that the cache holds: in masks, mods and positions that are named.
bool divisible(const AttentionOptions& options, bool has_mask) noexcept {
  const bool sees_later_keys = !options.causal && !(options.window && options.window->right == 0);
  return !sees_later_keys && !has_mask && !options.score_mod && !options.mask_mod &&
         !names_position(options);
}

/// The cache as one entry of the batch sees it. Positions count from the start of the sequence.
struct RollingSequence {
  std::int64_t capacity;
  std::int64_t position;  // of the next token
  std::int64_t oldest;    // of the oldest key that is held
  std::int64_t left;      // keys before its own that a token needs, if there are as many

  RollingSequence(const CacheRef& cache, std::int64_t entry, const AttentionOptions& options)
      : capacity(cache.contiguous()->settings().capacity),
        position(next_position(cache, entry)),
        oldest(oldest_position(cache, entry)) {
    const bool has_left = options.window && options.window->left;
    left = has_left ? *options.window->left : capacity - 1;
  }

  std::int64_t first_needed() const noexcept { return std::max<std::int64_t>(0, position - left); }
  /// The tokens that can be appended before one of them overwrites a key that the first one needs.
  /// 0 if the first token itself does.
  std::int64_t fitting() const noexcept { return capacity - (position - first_needed()); }
  /// Whether tokens fit one by one. Those at the beginning need no more keys than there are.
  bool fits_one_by_one(std::int64_t count) const noexcept {
    return left < capacity || count <= capacity - position;
  }
};

[[noreturn]] void exhausted(std::int64_t entry, const std::string& what) {
  throw Error(ErrorCode::exhausted, fmt::format("rolling cache, batch entry {}: {}", entry, what));
}

void check_entry(const RollingSequence& sequence, std::int64_t entry, std::int64_t count,
                 bool is_divisible) {
  if (sequence.oldest > sequence.first_needed()) {
    exhausted(entry, fmt::format("the token at position {} needs the keys from {} on; those before "
                                 "{} have been overwritten",
                                 sequence.position, sequence.first_needed(), sequence.oldest));
  }
  if (is_divisible) {
    if (sequence.fits_one_by_one(count)) return;
    exhausted(entry, fmt::format("x has {} tokens from position {} on, each of which needs {} keys "
                                 "(window); the capacity is {}",
                                 count, sequence.position, sequence.left + 1, sequence.capacity));
  }
  if (count <= sequence.fitting()) return;
  exhausted(entry,
            fmt::format("x has {} tokens from position {} on, which need the keys from {} "
                        "on; the capacity is {}, and a forward with a mask, a mod, a named "
                        "position or visible later keys is not divided",
                        count, sequence.position, sequence.first_needed(), sequence.capacity));
}

}  // namespace

bool names_position(const AttentionOptions& options) noexcept {
  return (options.q_position && options.q_position->offset) ||
         (options.causal && options.causal->position && options.causal->position->offset);
}

void check_rolling(const CacheRef& cache, const TokenShape& tokens, const AttentionOptions& options,
                   bool has_mask) {
  if (!is_rolling(cache) || tokens.seq == 0) return;
  const bool is_divisible = divisible(options, has_mask);
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    if (tokens.length(entry) > 0)
      check_entry({cache, entry, options}, entry, tokens.length(entry), is_divisible);
  }
}

std::int64_t tokens_at_once(const CacheRef& cache, const TokenShape& tokens,
                            const AttentionOptions& options, bool has_mask) {
  if (!is_rolling(cache) || !divisible(options, has_mask)) return tokens.seq;
  std::int64_t count = tokens.seq;
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    const std::int64_t fitting = RollingSequence(cache, entry, options).fitting();
    if (tokens.length(entry) > fitting) count = std::min(count, fitting);
  }
  return count;
}

}  // namespace attn::detail
