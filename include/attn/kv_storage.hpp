// Where keys and values lie in memory, and how sequences of different lengths share one call.
//
//   contiguous   k [batch, num_kv_heads, kv_len, head_dim]
//                key j of sequence b is row j
//   ring         k [batch, num_kv_heads, capacity, head_dim]
//                key j is row (starts[b] + j) % capacity
//   paged        k [num_pages, num_kv_heads, page_size, head_dim]
//                key j is row j % page_size of page page_table[b][j / page_size]
//   ragged       k [tokens, num_kv_heads, head_dim]
//                key j is row kv_offsets[b] + j
//
// V has the same layout as K, with v_head_dim in the place of head_dim. A page of the paged layout
// with page_size 4, and two sequences of 6 and 3 keys that share no page:
//
//   page_table  [[2, 0], [1, -]]
//   page 0      key 4 of sequence 0, key 5 of sequence 0, free, free
//   page 1      keys 0 to 2 of sequence 1, free
//   page 2      keys 0 to 3 of sequence 0
//
// Rings and pages are what KvCache and PagedKvCache (kv_cache.hpp) fill in; they can be given by
// hand as well. Paged attention: Kwon et al. 2023, arXiv:2309.06180.
#pragma once

#include <attn/tensor.hpp>

#include <cstdint>
#include <optional>
#include <variant>

namespace attn {

/// Key j of a sequence is row j of k and v.
struct Contiguous {};

/// A ring buffer of `capacity` rows: key j of sequence b is row (starts[b] + j) % capacity.
/// kv_lens must be given.
struct Ring {
  /// i32 or i64 [batch], each in 0..capacity - 1.
  TensorView starts{};
};

/// Pools of pages that sequences may share. kv_lens must be given.
struct Paged {
  /// i32 [batch, max_pages]: the pages of each sequence, in the order of its keys. Entries beyond
  /// the length of a sequence are not read.
  TensorView page_table{};
};

/// Where the keys of a call lie, and the scales of i8 keys and values.
struct KvStorage {
  std::variant<Contiguous, Ring, Paged> layout{};

  /// With k and v of i8: f32, the shape of k without its last dim. The key is k_scales[..] *
  /// k[.., :], the value v_scales[..] * v[.., :]. A scale is finite, or NaN; results of rows that
  /// see a key with an infinite scale are not specified.
  TensorView k_scales{};
  TensorView v_scales{};

  /// The start of each ring; absent with other layouts.
  TensorView starts() const noexcept {
    const Ring* ring = std::get_if<Ring>(&layout);
    return ring == nullptr ? TensorView{} : ring->starts;
  }
  /// The page table; absent with other layouts.
  TensorView page_table() const noexcept {
    const Paged* paged = std::get_if<Paged>(&layout);
    return paged == nullptr ? TensorView{} : paged->page_table;
  }
};

/// Sequences that stand one after another without padding. With q_offsets, q and out are
/// [tokens, num_q_heads, dim] and lse is [tokens, num_q_heads]; with kv_offsets, k and v are
/// [tokens, num_kv_heads, dim]. Either may be given without the other.
struct Ragged {
  /// i32 or i64 [batch + 1], from 0 to the number of tokens, never decreasing: sequence b has the
  /// tokens offsets[b] to offsets[b + 1] - 1.
  TensorView q_offsets{};
  TensorView kv_offsets{};
  /// No sequence is longer; running a longer one is an Error. They bound the workspace of a plan.
  /// Default: the number of all tokens. attention() reads the longest length from the offsets.
  std::optional<std::int64_t> max_q_len{};
  std::optional<std::int64_t> max_kv_len{};
};

}  // namespace attn
