// Keys and values that generation keeps from step to step, and how attention() is given them.
//
//   KvCache       one stretch of memory for each sequence, with room for `capacity` keys; rolling,
//   it keeps the last ones PagedKvCache  a pool of pages of page_size keys, a list of pages for
//   each sequence; sequences may share pages
//
// Both hand their memory to a call by bind(), which fills in k, v, kv_lens and whatever else tells
// where keys lie; attention() reads it in place. A decode step, with the step's own k and v of
// [batch, num_kv_heads, 1, dim]:
//
//   cache.append(k, v);
//   attention(cache.bind({.q = q, .out = out}), {.causal = Causal::bottom_right()});
//
// Element types: f32, bf16 and f16 are rounded to nearest even, and a row of the cache's own type
// is taken over bit by bit. i8 is symmetric with one scale for each key and head, scale = max |x| /
// 127 (but no subnormal number), x ~ scale * round(x / scale): each element is off by at most scale
// / 2. A row of zeros has scale 0. A row with an element that is not finite becomes NaN: its scale
// is NaN. Rotated keys are rounded once, after the rotation in f32.
//
// The caches do not own a model's schedule: they start no threads, choose no victim when they are
// full, and may not be changed by one thread while another one uses them. Errors leave a cache as
// it was. Memory is taken by the constructors; later, only a PagedKvCache's lists of sequences and
// pages, and the tables that it binds, may still grow. A cache that was moved from can only be
// destroyed or assigned to. A sequence number that is out of range, or not in use, is an
// Error(invalid_argument).
#pragma once

#include <attn/attention.hpp>
#include <attn/export.hpp>
#include <attn/rope.hpp>
#include <attn/tensor.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace attn {

/// Order of a cache's memory: [.., num_kv_heads, keys, dim] or [.., keys, num_kv_heads, dim].
enum class CacheLayout { bhsd, bshd };

class ATTN_API KvCache {
 public:
  struct Settings {
    std::int64_t batch = 1;
    std::int64_t num_kv_heads = 0;
    std::int64_t capacity = 0;  // keys of a sequence
    std::int64_t head_dim = 0;
    std::optional<std::int64_t> v_head_dim{};  // default: head_dim
    DType dtype = DType::f32;                  // f32, bf16, f16 or i8
    CacheLayout layout = CacheLayout::bhsd;
    bool rolling = false;  // a full sequence overwrites its oldest keys; else appending to it is an
                           // Error(exhausted)
  };
  /// Takes its memory at once. Throws Error(invalid_argument) for settings that make no cache,
  /// std::bad_alloc.
  explicit KvCache(const Settings& settings);
  KvCache(KvCache&&) noexcept;
  KvCache& operator=(KvCache&&) noexcept;
  ~KvCache();

  const Settings& settings() const noexcept;
  /// Keys that a sequence holds.
  std::int64_t length(std::int64_t sequence) const;
  /// The position of a sequence's next key: all that were appended and not truncated, overwritten
  /// ones included.
  std::int64_t position(std::int64_t sequence) const;
  /// Bytes of keys, values and scales.
  std::size_t size_in_bytes() const noexcept;

  /// Appends to every sequence: k [batch, num_kv_heads, count, head_dim], v [.., v_head_dim], each
  /// f32, bf16 or f16, any strides. `rope` turns k on its way in; its tables need a row for each
  /// position. A rolling cache that gets more keys than its capacity keeps the last ones; for a
  /// window of w keys to be seen whole by every query of a chunk, capacity is w - 1 + the chunk's
  /// length, and if keys are truncated, longer by the most of them. Throws Error(exhausted) if a
  /// sequence has not enough room, naming it.
  void append(const TensorView& k, const TensorView& v, const std::optional<Rope>& rope = {});
  /// To one sequence: k [num_kv_heads, count, head_dim].
  void append_to(std::int64_t sequence, const TensorView& k, const TensorView& v,
                 const std::optional<Rope>& rope = {});
  /// Drops the keys from this position on, as speculative decoding does with rejected tokens. A
  /// rolling cache does not get back what they overwrote. Throws Error(invalid_argument) for a
  /// position beyond the sequence's end, or before the oldest key it holds.
  void truncate(std::int64_t sequence, std::int64_t position);
  /// Makes all sequences empty.
  void clear() noexcept;

  /// The call with this cache as its k and v: k and v [batch, num_kv_heads, capacity, dim] in
  /// either layout, kv_lens (i64), kv_starts (i64) if the cache is rolling, k_scales and v_scales
  /// if it is of i8. Of an earlier cache's binding nothing is left; other fields stay. What it
  /// points to lasts as long as the memory, which moving the cache takes along; later appends show.
  AttentionTensors bind(AttentionTensors tensors) const;

 private:
  struct ATTN_HIDDEN Memory;
  std::unique_ptr<Memory> memory_;
};

class ATTN_API PagedKvCache {
 public:
  using Sequence = std::int64_t;

  struct Settings {
    std::int64_t num_pages = 0;
    std::int64_t page_size = 16;  // keys
    std::int64_t num_kv_heads = 0;
    std::int64_t head_dim = 0;
    std::optional<std::int64_t> v_head_dim{};  // default: head_dim
    DType dtype = DType::f32;                  // f32, bf16, f16 or i8
    CacheLayout layout = CacheLayout::bhsd;    // within a page
  };
  /// Takes its memory at once. Throws Error(invalid_argument) for settings that make no cache,
  /// std::bad_alloc.
  explicit PagedKvCache(const Settings& settings);
  PagedKvCache(PagedKvCache&&) noexcept;
  PagedKvCache& operator=(PagedKvCache&&) noexcept;
  ~PagedKvCache();

  const Settings& settings() const noexcept;
  std::int64_t free_pages() const noexcept;
  std::int64_t length(Sequence sequence) const;
  /// A sequence's pages, in the order of its keys. Lasts until the next change of the cache.
  std::span<const std::int32_t> pages(Sequence sequence) const;
  std::size_t size_in_bytes() const noexcept;

  /// An empty sequence, which takes no page. It gets the lowest number that is not in use.
  Sequence create();
  /// A sequence with the same keys, on the same pages. Whichever of the two next writes to a page
  /// that both hold copies it first.
  Sequence fork(Sequence parent);
  /// Pages that no other sequence holds become free. Those freed last are taken first, and of a
  /// sequence's pages the first.
  void remove(Sequence sequence);
  /// k [num_kv_heads, count, head_dim], v [.., v_head_dim], as KvCache::append_to. Throws
  /// Error(exhausted), with nothing changed, if the pool has not enough free pages; its message
  /// says how many are needed, the copy of a shared one included, and how many there are.
  void append(Sequence sequence, const TensorView& k, const TensorView& v,
              const std::optional<Rope>& rope = {});
  /// Drops the keys from `length` on, and the pages that are empty then. Writes to no page. Throws
  /// Error(invalid_argument) for a length beyond the sequence's.
  void truncate(Sequence sequence, std::int64_t length);

  /// The call with these sequences as its batch, in this order; one may appear several times: k and
  /// v [num_pages, num_kv_heads, page_size, dim] in either layout, page_table, kv_lens (i64),
  /// k_scales and v_scales if the cache is of i8. Of an earlier cache's binding nothing is left;
  /// other fields stay. What it points to lasts until the next change of the cache or the next
  /// bind.
  AttentionTensors bind(AttentionTensors tensors, std::span<const Sequence> sequences);

 private:
  struct ATTN_HIDDEN Memory;
  std::unique_ptr<Memory> memory_;
};

}  // namespace attn
