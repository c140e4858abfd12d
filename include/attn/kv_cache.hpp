// Keys and values that generation keeps from step to step, and how attention() reads them.
//
//   KvCache        contiguous memory for each sequence, with room for `capacity` keys; a rolling
//                  cache keeps the last `capacity` keys (a ring)
//   PagedKvCache   a pool of pages of page_size keys, and a list of pages for each sequence;
//                  sequences may share pages (Kwon et al. 2023, arXiv:2309.06180)
//   CacheRef       names the sequences of either cache that are the batch of a forward
//
// bind() fills in the fields of a call that say where keys and values lie: k, v, kv_lens and
// storage. attention() then reads the cache in place. A decode step, with the step's own k and v of
// [batch, num_kv_heads, 1, dim]:
//
//   cache.append(k, v);
//   attention(cache.bind({.q = q, .out = out}), {.causal = Causal::bottom_right()});
//
// Element types. Rows of the cache's own type are copied bit by bit; others are rounded to f32,
// bf16 or f16, to nearest even. i8 is symmetric, with one scale for each key and head:
//
//   scale = max |x| / 127, at least the smallest normal float      x ~ scale * round(x / scale)
//
// so that each element is off by at most scale / 2. A row of zeros has scale 0. A row with an
// element that is not finite becomes NaN: its scale is NaN. Keys that are rotated are rounded once,
// after the rotation in f32.
//
// Scheduling is the caller's. The caches start no threads, do not evict keys when they are full,
// and must not be changed by one thread while another one uses them. If a function throws, the
// cache is unchanged. Constructors allocate all memory of keys and values; only the lists of
// sequences and pages of a PagedKvCache, and the tables that it binds, may grow later. A cache that
// was moved from can only be destroyed or assigned to: all of its functions throw
// Error(invalid_argument), as they do for a sequence number that is out of range or not in use.
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

/// The order of dims in a cache's memory: [.., num_kv_heads, keys, dim] (bhsd) or
/// [.., keys, num_kv_heads, dim] (bshd).
enum class CacheLayout { bhsd, bshd };

class ATTN_API KvCache {
 public:
  struct Settings {
    std::int64_t batch = 1;
    std::int64_t num_kv_heads = 0;
    std::int64_t capacity = 0;  // keys per sequence
    std::int64_t head_dim = 0;
    std::optional<std::int64_t> v_head_dim{};  // default: head_dim
    DType dtype = DType::f32;                  // f32, bf16, f16 or i8
    CacheLayout layout = CacheLayout::bhsd;
    /// If true, a full sequence overwrites its oldest keys. If false, appending to it throws
    /// Error(exhausted).
    bool rolling = false;
  };
  /// Allocates all memory. Throws Error(invalid_argument), which names the setting that is not
  /// valid, or std::bad_alloc.
  explicit KvCache(const Settings& settings);
  KvCache(KvCache&&) noexcept;
  KvCache& operator=(KvCache&&) noexcept;
  ~KvCache();

  const Settings& settings() const;
  /// The number of keys that a sequence holds.
  std::int64_t length(std::int64_t sequence) const;
  /// The position of a sequence's next key: the number of keys that were appended and not
  /// truncated, those that have been overwritten included.
  std::int64_t position(std::int64_t sequence) const;
  /// Bytes of keys, values and scales.
  std::size_t size_in_bytes() const;

  /// Appends keys to every sequence: k [batch, num_kv_heads, count, head_dim], v [.., v_head_dim],
  /// each f32, bf16 or f16, any strides. `rope` rotates k before it is stored; its tables need a
  /// row for each position. A rolling cache that gets more keys than it has room for overwrites its
  /// oldest ones, and keeps the last `capacity` of them.
  ///
  /// attention() sees the keys that the cache holds then. Query n of a chunk of c tokens that were
  /// just appended finds at most the last capacity - (c - 1 - n) keys up to its own: its later
  /// neighbors have overwritten the others, and no error says so. Each query finds all keys of a
  /// window with `left` keys before its own if capacity >= left + c; add the largest number of
  /// keys that are truncated at once. With a smaller capacity, append and attend to fewer tokens at
  /// a time, as AttentionBlock does. Throws Error(exhausted), which names the sequence, if one has
  /// not enough room.
  void append(const TensorView& k, const TensorView& v, const std::optional<Rope>& rope = {});
  /// Appends keys to one sequence: k [num_kv_heads, count, head_dim], v [.., v_head_dim].
  void append_to(std::int64_t sequence, const TensorView& k, const TensorView& v,
                 const std::optional<Rope>& rope = {});
  /// Removes the keys from this position on, as speculative decoding does with rejected tokens. A
  /// rolling cache does not get back the keys that they overwrote. Throws Error(invalid_argument)
  /// for a position after the sequence's end, or before the oldest key that it holds.
  void truncate(std::int64_t sequence, std::int64_t position);
  /// Makes all sequences empty.
  void clear();

  /// Returns the call with this cache as its keys and values: k and v [batch, num_kv_heads,
  /// capacity, dim] in either layout, kv_lens (i64), storage.layout (Ring if the cache is rolling,
  /// else Contiguous), and storage.k_scales and v_scales if it is i8. These fields replace those of
  /// an earlier bind(); others stay. The views point into the cache: they remain valid when it is
  /// moved, and later appends are visible through them.
  AttentionTensors bind(AttentionTensors tensors) const;

 private:
  struct ATTN_HIDDEN Memory;
  ATTN_HIDDEN Memory& memory() const;
  std::unique_ptr<Memory> memory_;
};

class ATTN_API PagedKvCache {
 public:
  using Sequence = std::int64_t;

  struct Settings {
    std::int64_t num_pages = 0;
    std::int64_t page_size = 16;  // keys per page
    std::int64_t num_kv_heads = 0;
    std::int64_t head_dim = 0;
    std::optional<std::int64_t> v_head_dim{};  // default: head_dim
    DType dtype = DType::f32;                  // f32, bf16, f16 or i8
    CacheLayout layout = CacheLayout::bhsd;    // within a page
  };
  /// Allocates all memory of keys and values. Throws Error(invalid_argument), which names the
  /// setting that is not valid, or std::bad_alloc.
  explicit PagedKvCache(const Settings& settings);
  PagedKvCache(PagedKvCache&&) noexcept;
  PagedKvCache& operator=(PagedKvCache&&) noexcept;
  ~PagedKvCache();

  const Settings& settings() const;
  std::int64_t free_pages() const;
  std::int64_t length(Sequence sequence) const;
  /// The pages of a sequence, in the order of its keys. Valid until the next change of the cache.
  std::span<const std::int32_t> pages(Sequence sequence) const;
  std::size_t size_in_bytes() const;

  /// Creates an empty sequence, which holds no page. It gets the lowest number that is not in use.
  Sequence create();
  /// Creates a sequence with the same keys on the same pages. A page that both hold is copied when
  /// one of them is about to write to it (copy on write).
  Sequence fork(Sequence parent);
  /// Removes a sequence. Its pages that no other sequence holds become free. The pages that were
  /// freed last are the first to be used again, beginning with the first page of the sequence.
  void remove(Sequence sequence);
  /// Appends keys to a sequence as KvCache::append_to does: k [num_kv_heads, count, head_dim], v
  /// [.., v_head_dim]. Throws Error(exhausted) if the pool has not enough free pages. Its message
  /// says how many are needed, the copy of a shared page included, and how many are free.
  void append(Sequence sequence, const TensorView& k, const TensorView& v,
              const std::optional<Rope>& rope = {});
  /// Removes the keys from `length` on, and frees the pages that are empty then. Writes to no page.
  /// Throws Error(invalid_argument) for a length greater than the sequence's.
  void truncate(Sequence sequence, std::int64_t length);

  /// Returns the call with these sequences as its batch, in this order; a sequence may appear
  /// several times: k and v [num_pages, num_kv_heads, page_size, dim] in either layout, kv_lens
  /// (i64), storage.layout (Paged), and storage.k_scales and v_scales if the cache is i8. These
  /// fields replace those of an earlier bind(); others stay. The views are valid until the next
  /// change of the cache or the next bind().
  AttentionTensors bind(AttentionTensors tensors, std::span<const Sequence> sequences);

 private:
  struct ATTN_HIDDEN Memory;
  ATTN_HIDDEN Memory& memory() const;
  std::unique_ptr<Memory> memory_;
};

/// The sequences of a cache that are the batch of a forward. It does not own the cache.
class CacheRef {
 public:
  /// No cache: a token attends to the tokens of the same forward alone.
  CacheRef() = default;
  /// All sequences of the cache are the batch.
  CacheRef(KvCache& cache) : contiguous_(&cache) {}  // NOLINT(google-explicit-constructor)
  /// One sequence of the cache is a batch of 1. Prompts of different lengths are prefilled so,
  /// before they decode as one batch.
  CacheRef(KvCache& cache, std::int64_t sequence) : contiguous_(&cache), sequence_(sequence) {}
  /// These sequences are the batch. The memory of the span has to outlive this object.
  CacheRef(PagedKvCache& cache, std::span<const PagedKvCache::Sequence> sequences)
      : paged_(&cache), sequences_(sequences) {}

  /// Whether it refers to no cache.
  bool absent() const noexcept { return contiguous_ == nullptr && paged_ == nullptr; }
  /// The contiguous cache, or null.
  KvCache* contiguous() const noexcept { return contiguous_; }
  /// The one sequence of the contiguous cache that is the batch, if it is not all of them.
  std::optional<std::int64_t> sequence() const noexcept { return sequence_; }
  /// The paged cache, or null.
  PagedKvCache* paged() const noexcept { return paged_; }
  /// The sequences of the paged cache.
  std::span<const PagedKvCache::Sequence> sequences() const noexcept { return sequences_; }

 private:
  KvCache* contiguous_ = nullptr;
  std::optional<std::int64_t> sequence_{};
  PagedKvCache* paged_ = nullptr;
  std::span<const PagedKvCache::Sequence> sequences_{};
};

}  // namespace attn
