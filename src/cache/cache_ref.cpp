#include "cache/cache_ref.hpp"

#include <attn/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <variant>

#include "tensor/checks.hpp"
#include "tensor/rounding.hpp"

namespace attn::detail {
namespace {

using Sequence = PagedKvCache::Sequence;

/// The sequence of a contiguous cache that is this entry of the batch.
std::int64_t sequence_of(const CacheRef& cache, std::int64_t entry) {
  return cache.sequence().value_or(entry);
}

/// One entry of [batch, heads, seq, dim], without the first dim.
TensorView entry_of(const TensorView& view, std::int64_t entry) {
  const TensorView one = view.sliced(0, entry, entry + 1);
  return {one.data,
          one.dtype,
          {one.shape[1], one.shape[2], one.shape[3]},
          {one.strides[1], one.strides[2], one.strides[3]}};
}

/// The call of one sequence, out of the call that a contiguous cache made of all of them.
AttentionTensors single_sequence(AttentionTensors tensors, std::int64_t sequence) {
  const auto keep_one = [&](TensorView& view) {
    if (!view.absent()) view = view.sliced(0, sequence, sequence + 1);
  };
  KvStorage& storage = tensors.storage;
  for (TensorView* view :
       {&tensors.k, &tensors.v, &tensors.kv_lens, &storage.k_scales, &storage.v_scales}) {
    keep_one(*view);
  }
  if (Ring* ring = std::get_if<Ring>(&storage.layout)) keep_one(ring->starts);
  return tensors;
}

/// The tokens of one sequence out of [batch, heads, seq, dim], or of ragged [1, heads, tokens,
/// dim], without the first dim.
TensorView sequence_part(const TensorView& view, const TokenShape& tokens, std::int64_t entry) {
  if (!tokens.ragged()) return entry_of(view, entry);
  return entry_of(view.sliced(2, tokens.first(entry), tokens.first(entry + 1)), 0);
}

void require_cache_extent(const char* name, std::int64_t value, const char* block_name,
                          std::int64_t needed) {
  if (value != needed)
    reject(fmt::format("cache has {} {}; it needs {} ({} of the block)", name, value, needed,
                       block_name));
}

template <class CacheSettings>
void check_heads(const CacheSettings& cache, const KvHeads& heads) {
  require_cache_extent("num_kv_heads", cache.num_kv_heads, "num_kv_heads", heads.num_kv_heads);
  require_cache_extent("head_dim", cache.head_dim, "head_dim", heads.head_dim);
  require_cache_extent("v_head_dim", cache.v_head_dim.value_or(cache.head_dim), "head_dim",
                       heads.head_dim);
}

void check_batch(std::int64_t of_cache, const TokenShape& tokens) {
  require_cache_extent("a batch of", of_cache, "batch of x, of the tokens", tokens.batch);
}

/// Throws Error(exhausted) if a sequence has no room for so many keys.
void check_room(const KvCache& cache, std::int64_t sequence, std::int64_t count) {
  const std::int64_t room = cache.settings().capacity - cache.length(sequence);
  if (cache.settings().rolling || count <= room) return;
  throw Error(
      ErrorCode::exhausted,
      fmt::format(
          "x has {} tokens for sequence {}, which holds {} and has room for {} (capacity {})",
          count, sequence, cache.length(sequence), room, cache.settings().capacity));
}

void check_sequences(const PagedKvCache& cache, std::span<const Sequence> sequences) {
  for (std::size_t n = 0; n < sequences.size(); ++n) {
    static_cast<void>(cache.length(sequences[n]));  // throws if there is no such sequence
    if (std::ranges::count(sequences.first(n), sequences[n]) > 0) {
      reject(fmt::format("sequence {} stands twice in the batch; its keys can be appended once",
                         sequences[n]));
    }
  }
}

}  // namespace

std::int64_t next_position(const CacheRef& cache, std::int64_t entry) {
  if (const PagedKvCache* paged = cache.paged())
    return paged->length(cache.sequences()[static_cast<std::size_t>(entry)]);
  if (const KvCache* contiguous = cache.contiguous())
    return contiguous->position(sequence_of(cache, entry));
  return 0;
}

std::int64_t oldest_position(const CacheRef& cache, std::int64_t entry) {
  const KvCache* const contiguous = cache.contiguous();
  if (contiguous == nullptr) return 0;
  const std::int64_t sequence = sequence_of(cache, entry);
  return contiguous->position(sequence) - contiguous->length(sequence);
}

std::int64_t kv_len_after(const CacheRef& cache, const TokenShape& tokens) {
  if (const KvCache* contiguous = cache.contiguous()) return contiguous->settings().capacity;
  const PagedKvCache* const paged = cache.paged();
  if (paged == nullptr) return tokens.seq;
  const std::int64_t page_size = paged->settings().page_size;
  std::int64_t kv_len = page_size;
  for (std::int64_t entry = 0; entry < std::ssize(cache.sequences()); ++entry) {
    const std::int64_t keys = next_position(cache, entry) + tokens.length(entry);
    kv_len = std::max(kv_len, round_up(keys, page_size));
  }
  return kv_len;
}

void check_cache(const CacheRef& cache, const KvHeads& heads, const TokenShape& tokens) {
  if (const KvCache* contiguous = cache.contiguous()) {
    check_heads(contiguous->settings(), heads);
    check_batch(cache.sequence() ? 1 : contiguous->settings().batch, tokens);
    for (std::int64_t entry = 0; entry < tokens.batch; ++entry)
      check_room(*contiguous, sequence_of(cache, entry), tokens.length(entry));
  } else if (const PagedKvCache* paged = cache.paged()) {
    check_heads(paged->settings(), heads);
    check_batch(std::ssize(cache.sequences()), tokens);
    check_sequences(*paged, cache.sequences());
  }
}

bool shares_keys(const CacheRef& a, const CacheRef& b) {
  if (a.contiguous() != nullptr) {
    return a.contiguous() == b.contiguous() &&
           (!a.sequence() || !b.sequence() || *a.sequence() == *b.sequence());
  }
  const auto in_b = [&](Sequence sequence) {
    return std::ranges::find(b.sequences(), sequence) != b.sequences().end();
  };
  return a.paged() != nullptr && a.paged() == b.paged() && std::ranges::any_of(a.sequences(), in_b);
}

void append(const CacheRef& cache, const TokenShape& tokens, const TensorView& k,
            const TensorView& v, const std::optional<Rope>& rope) {
  if (cache.contiguous() != nullptr && !cache.sequence() && !tokens.ragged())
    return cache.contiguous()->append(k, v, rope);
  std::int64_t entry = 0;
  try {
    for (; entry < tokens.batch; ++entry) {
      if (tokens.length(entry) == 0) continue;
      const TensorView keys = sequence_part(k, tokens, entry),
                       values = sequence_part(v, tokens, entry);
      if (cache.paged() != nullptr) {
        cache.paged()->append(cache.sequences()[static_cast<std::size_t>(entry)], keys, values,
                              rope);
      } else {
        cache.contiguous()->append_to(sequence_of(cache, entry), keys, values, rope);
      }
    }
  } catch (...) {
    while (entry-- > 0) rollback_entry(cache, entry, tokens.length(entry));
    throw;
  }
}

CacheRef entry_of(const CacheRef& cache, std::int64_t entry) {
  if (cache.paged() != nullptr)
    return {*cache.paged(), cache.sequences().subspan(static_cast<std::size_t>(entry), 1)};
  if (cache.contiguous() != nullptr) return {*cache.contiguous(), sequence_of(cache, entry)};
  return {};
}

AttentionTensors bind(const CacheRef& cache, AttentionTensors tensors) {
  if (cache.paged() != nullptr) return cache.paged()->bind(std::move(tensors), cache.sequences());
  if (cache.contiguous() == nullptr) return tensors;
  tensors = cache.contiguous()->bind(std::move(tensors));
  return cache.sequence() ? single_sequence(std::move(tensors), *cache.sequence()) : tensors;
}

void rollback(const CacheRef& cache, const TokenShape& tokens) {
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry)
    rollback_entry(cache, entry, tokens.length(entry));
}

void rollback_entry(const CacheRef& cache, std::int64_t entry, std::int64_t count) {
  if (PagedKvCache* const paged = cache.paged()) {
    const Sequence sequence = cache.sequences()[static_cast<std::size_t>(entry)];
    return paged->truncate(sequence, paged->length(sequence) - count);
  }
  if (cache.contiguous() == nullptr) return;
  KvCache& contiguous = *cache.contiguous();
  const std::int64_t sequence = sequence_of(cache, entry);
  contiguous.truncate(sequence,
                      contiguous.position(sequence) - std::min(count, contiguous.length(sequence)));
}

}  // namespace attn::detail
